"""The reference operations against torch, whose implementations are independent, on NumPy and on torch arrays."""

import math
from types import ModuleType

import numpy as np
import pytest
import torch
from torch.nn import functional

from vivace.ops import reference

SEED = 20261122


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(SEED)


@pytest.fixture(params=[np, torch], ids=["numpy", "torch"])
def library(request: pytest.FixtureRequest) -> ModuleType:
    return request.param


def close(actual: object, expected: torch.Tensor) -> None:
    np.testing.assert_allclose(np.asarray(actual), expected.numpy(), rtol=2e-5, atol=2e-6)


def normal(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.standard_normal(shape, dtype=np.float32)


def test_embedding(library: ModuleType, rng: np.random.Generator) -> None:
    table, ids = normal(rng, 11, 6), np.array([3, 0, 10, 3], np.int32)
    out = reference.embedding(library.asarray(table), library.asarray(ids), 2.5)
    close(out, functional.embedding(torch.asarray(ids), torch.asarray(table)) * 2.5)


@pytest.mark.parametrize("groups", [1, 4])
def test_rms_norm(library: ModuleType, rng: np.random.Generator, groups: int) -> None:
    x, weight = normal(rng, 5, 24), normal(rng, 24 // groups)
    out = reference.rms_norm(library.asarray(x), library.asarray(weight), 1e-5, groups)
    expected = functional.rms_norm(
        torch.asarray(x).reshape(5, groups, -1), [24 // groups], torch.asarray(weight), eps=1e-5
    )
    close(out, expected.reshape(5, 24))


@pytest.mark.parametrize("num_tokens", [0, 1, 5])
def test_linear_parts(library: ModuleType, rng: np.random.Generator, num_tokens: int) -> None:
    x, first, second, bias = normal(rng, num_tokens, 7), normal(rng, 4, 7), normal(rng, 3, 7), normal(rng, 3)
    weights = [library.asarray(first), library.asarray(second)]
    out = reference.linear(library.asarray(x), weights, [None, library.asarray(bias)])
    expected = [
        functional.linear(torch.asarray(x), torch.asarray(first)),
        functional.linear(torch.asarray(x), torch.asarray(second), torch.asarray(bias)),
    ]
    close(out, torch.concat(expected, dim=-1))


def test_rope_rotates_pairs_as_complex_numbers(library: ModuleType, rng: np.random.Generator) -> None:
    """Pairs (i, i + P) are complex numbers multiplied by exp(i * angle); columns past 2P pass through."""
    num_heads, head_dim, num_pairs = 3, 10, 4
    x, positions = normal(rng, 5, num_heads * head_dim), np.array([0, 1, 7, 500, 2], np.int32)
    inv_freq = (100.0 ** -(np.arange(num_pairs) / num_pairs)).astype(np.float32)
    table = reference.rope_table(library.asarray(positions), library.asarray(inv_freq), 1.5)
    out = reference.rope(library.asarray(x), table, head_dim)

    heads = torch.asarray(x).reshape(5, num_heads, head_dim)
    angles = torch.asarray(positions)[:, None].float() * torch.asarray(inv_freq)
    turned = torch.complex(heads[..., :4], heads[..., 4:8]) * torch.polar(torch.tensor(1.5), angles)[:, None]
    close(out, torch.concat([turned.real, turned.imag, heads[..., 8:]], dim=-1).reshape(5, -1))


def test_rope_angle_is_rounded_to_float32() -> None:
    inv_freq = np.array([0.1], np.float64)
    table = reference.rope_table(np.array([100_003], np.int32), inv_freq, 1.0)
    assert table[0, 0] == math.cos(float(np.float32(100_003) * np.float32(0.1)))


@pytest.mark.parametrize(("num_heads", "num_kv_heads"), [(4, 4), (4, 2), (4, 1)])
@pytest.mark.parametrize(("window", "cap"), [(None, None), (3, None), (None, 2.0), (1, 2.0), (6, None)])
def test_paged_attention(
    library: ModuleType, rng: np.random.Generator, num_heads: int, num_kv_heads: int, window: int, cap: float
) -> None:
    """Three sequences with scattered blocks: a prompt, a chunk after cached tokens and a single last token."""
    block_size, head_dim, scale = 4, 8, 0.4
    context_lens, query_lens = np.array([7, 13, 8], np.int32), [7, 5, 1]
    block_tables = np.array([[9, 2, 0, 0], [5, 7, 1, 3], [0, 8, 6, 6]], np.int32)
    contexts = [[normal(rng, length, num_kv_heads * head_dim) for _ in "kv"] for length in context_lens]
    caches = [library.asarray(np.full((10, num_kv_heads, block_size, head_dim), np.nan, np.float32)) for _ in "kv"]
    for (k, v), table in zip(contexts, block_tables, strict=True):
        positions = np.arange(len(k))
        slots = (table[positions // block_size] * block_size + positions % block_size).astype(np.int32)
        reference.kv_write(library.asarray(k), library.asarray(v), *caches, library.asarray(slots))
    q = normal(rng, sum(query_lens), num_heads * head_dim)
    starts = np.array([0, 7, 12, 13], np.int32)
    out = reference.paged_attention(
        library.asarray(q),
        *caches,
        library.asarray(starts),
        library.asarray(context_lens),
        library.asarray(block_tables),
        scale=scale,
        window=window,
        softcap=cap,
    )
    expected = [
        attention_with_mask(q[starts[i] : starts[i + 1]], *contexts[i], num_heads, num_kv_heads, scale, window, cap)
        for i in range(3)
    ]
    close(out, torch.concat(expected))


def attention_with_mask(
    q: np.ndarray,
    k: np.ndarray,
    v: np.ndarray,
    num_heads: int,
    num_kv_heads: int,
    scale: float,
    window: int | None,
    cap: float | None,
) -> torch.Tensor:
    """One sequence, dense, as the papers write it: softmax over a masked matrix of scores."""
    num_queries, context_len = len(q), len(k)
    q_HTK = torch.asarray(q).reshape(num_queries, num_heads, -1).transpose(0, 1)
    k_HCK, v_HCK = (
        torch.asarray(x)
        .reshape(context_len, num_kv_heads, -1)
        .transpose(0, 1)
        .repeat_interleave(num_heads // num_kv_heads, dim=0)
        for x in (k, v)
    )
    scores = q_HTK @ k_HCK.transpose(1, 2) * scale
    if cap is not None:
        scores = cap * torch.tanh(scores / cap)
    query_positions = torch.arange(context_len - num_queries, context_len)[:, None]
    distance = query_positions - torch.arange(context_len)
    hidden = (distance < 0) | (distance >= (window or context_len))
    weights = torch.softmax(scores.masked_fill(hidden, -math.inf), dim=-1)
    return (weights @ v_HCK).transpose(0, 1).reshape(num_queries, -1)


def test_attention_survives_heads_of_different_size() -> None:
    """One head's scores near 1000 must not make another head's weights vanish."""
    keys = np.ones((1, 1, 2, 1), np.float32)
    q = np.array([[1000.0, -1000.0]], np.float32)
    starts, lens, tables = np.array([0, 1], np.int32), np.array([2], np.int32), np.zeros((1, 1), np.int32)
    out = reference.paged_attention(q, keys, keys, starts, lens, tables, scale=1.0, window=None, softcap=None)
    assert out.tolist() == [[1.0, 1.0]]


@pytest.mark.parametrize(
    ("activation", "function"),
    [
        ("silu", functional.silu),
        ("gelu", functional.gelu),
        ("gelu_tanh", lambda x: functional.gelu(x, approximate="tanh")),
    ],
)
def test_gated_activation(library: ModuleType, rng: np.random.Generator, activation, function) -> None:
    gate_up = normal(rng, 4, 12) * 5
    gate_up[0, 0], gate_up[0, 1] = -200, 200
    out = reference.gated_activation(library.asarray(gate_up), activation)
    gate, up = torch.asarray(gate_up).split(6, dim=1)
    close(out, function(gate) * up)


def test_elementwise(library: ModuleType, rng: np.random.Generator) -> None:
    x, y = normal(rng, 3, 5) * 30, normal(rng, 3, 5)
    close(reference.add(library.asarray(x), library.asarray(y)), torch.asarray(x) + torch.asarray(y))
    close(reference.softcap(library.asarray(x), 20.0), 20 * torch.tanh(torch.asarray(x) / 20))
    close(reference.scale(library.asarray(x), 0.3), torch.asarray(x) * 0.3)
    rows = np.array([2, 0, 2], np.int32)
    close(reference.gather_rows(library.asarray(x), library.asarray(rows)), torch.asarray(x)[[2, 0, 2]])


def test_rows_do_not_depend_on_the_batch(rng: np.random.Generator) -> None:
    """On NumPy, a row has the same bits alone and among others (odd sizes, where vector code has tails)."""
    x, weight, bias = normal(rng, 37, 173), normal(rng, 59, 173), normal(rng, 59)
    norm = normal(rng, 173)
    whole = reference.linear(reference.rms_norm(x, norm, 1e-6, 1), [weight], [bias])
    for start, stop in [(0, 1), (5, 6), (3, 20), (36, 37)]:
        part = reference.linear(reference.rms_norm(x[start:stop], norm, 1e-6, 1), [weight], [bias])
        assert np.array_equal(part, whole[start:stop])
