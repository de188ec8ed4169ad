"""Paged attention on every instruction set against the float64 reference, and bit by bit against itself."""

from __future__ import annotations

from functools import cache
from itertools import pairwise

import numpy as np
import pytest
from paged_steps import Array, AttentionShape, PagedAttention

from vivace.backends.cpu.backend import KV_DTYPES, CpuBackend
from vivace.backends.reference.backend import ReferenceBackend
from vivace.core.config import KVDtype

SHAPES = [
    AttentionShape(4, 4, 8),
    AttentionShape(3, 1, 64, dtype="bf16"),
    AttentionShape(8, 2, 64, block_size=4, window=7),
    AttentionShape(4, 2, 80, block_size=32, dtype="f16", softcap=20.0),
    AttentionShape(2, 1, 96, block_size=48, dtype="bf16", window=70),
    AttentionShape(2, 2, 128, block_size=5, dtype="f16"),
    AttentionShape(9, 1, 256, block_size=16, softcap=5.0, window=300),
]
LENGTHS = [1, 37, 130, 64]
CODED_SHAPES = [
    AttentionShape(4, 4, 8, dtype="int8_per_token_head"),
    AttentionShape(8, 2, 64, dtype="int8_per_token_head"),
    AttentionShape(2, 1, 100, block_size=48, dtype="int8_per_token_head", window=70),
    AttentionShape(3, 1, 64, block_size=32, dtype="int4_per_token_head", softcap=20.0),
    AttentionShape(4, 2, 80, dtype="int4_per_token_head"),
    AttentionShape(9, 1, 256, dtype="int4_per_token_head", softcap=5.0, window=300),
    AttentionShape(4, 4, 8, dtype="int4_k_per_channel"),
    AttentionShape(8, 2, 64, dtype="int4_k_per_channel"),
    AttentionShape(4, 2, 80, block_size=32, dtype="int4_k_per_channel", window=21),
    AttentionShape(2, 1, 128, block_size=128, dtype="int4_k_per_channel", softcap=20.0),
]


@cache  # one for all instruction sets and numbers of threads
def reference(shape: AttentionShape, *lengths: int, seed: int) -> list[Array]:
    return PagedAttention(ReferenceBackend(np.float64), shape, list(lengths), seed).run_whole()


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_agrees_with_the_reference(cpu: CpuBackend, shape: AttentionShape) -> None:
    """With products of bf16, queries and weights are rounded like the cache: 2^-9 of each at most, here below 1%."""
    rounds = shape.dtype == "bf16" and cpu.isa == "avx512_bf16"
    expected = reference(shape, *LENGTHS, seed=1)
    actual = PagedAttention(cpu, shape, LENGTHS, seed=1).run_whole()
    for one, other in zip(actual, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=2e-5, atol=1e-2 if rounds else 2e-6)


@pytest.mark.parametrize("shape", CODED_SHAPES, ids=str)
def test_coded_caches_agree_with_the_reference(cpu: CpuBackend, shape: AttentionShape) -> None:
    """Queries and weights have 15 bits: an error 30 times below that of int8 codes (at a scale of 1, 0.02)."""
    expected = reference(shape, *LENGTHS, seed=1)
    actual = PagedAttention(cpu, shape, LENGTHS, seed=1).run_whole()
    for one, other in zip(actual, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=2e-3)


@pytest.mark.parametrize("shape", [AttentionShape(4, 1, 64), AttentionShape(2, 2, 8, window=600)], ids=str)
def test_agrees_beyond_a_chunk(cpu: CpuBackend, shape: AttentionShape) -> None:
    lengths = [1300]
    expected = reference(shape, *lengths, seed=2)[0]
    attention = PagedAttention(cpu, shape, lengths, seed=2)
    np.testing.assert_allclose(attention.run_whole()[0], expected, rtol=2e-5, atol=2e-6)
    # One new token over a long context: shared among threads.
    np.testing.assert_allclose(attention.run([(0, 1299, 1300)])[0], expected[-1:], rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("shape", SHAPES + CODED_SHAPES, ids=str)
def test_bits_do_not_depend_on_the_batch(isa: str, shape: AttentionShape, seed: int) -> None:
    lengths = [150, 90, 700]
    rng = np.random.default_rng(seed)
    expected = PagedAttention(CpuBackend(1, isa), shape, lengths, seed).run_whole()
    attention = PagedAttention(CpuBackend(2, isa), shape, lengths, seed)
    done = [0] * len(lengths)
    while any(start < length for start, length in zip(done, lengths, strict=True)):
        spans = []
        for index, length in enumerate(lengths):
            size = min(int(rng.choice([0, 1, 1, 2, 7, 64, 200])), length - done[index])
            if size:
                spans.append((index, done[index], done[index] + size))
        for (index, start, stop), out in zip(spans, attention.run(spans) if spans else [], strict=True):
            np.testing.assert_array_equal(out, expected[index][start:stop], err_msg=f"{seed=} {index} {start}:{stop}")
            done[index] = stop


@pytest.mark.parametrize("dtype", ["bf16", "int8_per_token_head", "int4_per_token_head", "int4_k_per_channel"])
def test_shared_contexts_give_the_same_bits(isa: str, dtype: KVDtype) -> None:
    shape = AttentionShape(4, 1, 64, dtype=dtype)
    expected = PagedAttention(CpuBackend(1, isa), shape, [2100], seed=4).run_whole()[0]
    cuts = [0, 511, 512, 513, 1025, 1026, 2091, 2099, 2100]  # spans of one and of eight tokens share their context
    for threads in (2, 3, 5):
        attention = PagedAttention(CpuBackend(threads, isa), shape, [2100], seed=4)
        for start, stop in pairwise(cuts):
            np.testing.assert_array_equal(attention.run([(0, start, stop)])[0], expected[start:stop])


@pytest.mark.parametrize("dtype", KV_DTYPES)
def test_rejected_tokens_leave_no_trace(cpu: CpuBackend, dtype: KVDtype) -> None:
    """A draft of another sequence's tokens is computed, crosses blocks, and is overwritten from its middle on."""
    shape = AttentionShape(4, 2, 64, dtype=dtype)
    attention = PagedAttention(cpu, shape, [120, 120], seed=6)
    expected = attention.run_whole()[0]
    attention = PagedAttention(cpu, shape, [120, 120], seed=6)
    at = 0
    for draft, accepted in ((40, 21), (30, 11), (1, 1), (18, 0), (33, 14), (60, 1)):
        first = attention.first_ids[0]
        out = attention.run([(0, at, at + accepted)])[0] if accepted else expected[at:at]
        np.testing.assert_array_equal(out, expected[at : at + accepted])
        at += accepted
        attention.first_ids[0] = attention.first_ids[1]
        attention.run([(0, at, min(at + draft, 120))])
        attention.first_ids[0] = first
    np.testing.assert_array_equal(attention.run([(0, at, 120)])[0], expected[at:])


@pytest.mark.parametrize("dtype", KV_DTYPES)
def test_stale_cache_contents_are_not_read(cpu: CpuBackend, dtype: KVDtype) -> None:
    """A NaN that a broken request left in a block must not reach the block's next owner."""
    shape = AttentionShape(2, 1, 64, dtype=dtype)
    attention = PagedAttention(cpu, shape, [32, 20], seed=5, broken=0)
    expected = attention.run([(1, 0, 20)])[0]
    assert np.isnan(attention.run([(0, 0, 32)])[0]).all()
    attention.tables[1] = attention.tables[0]
    np.testing.assert_array_equal(attention.run([(1, 0, 18)])[0], expected[:18])
    np.testing.assert_array_equal(attention.run([(1, 18, 20)])[0], expected[18:])
