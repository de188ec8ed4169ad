"""Kernels in the tiles that models of 1B to 70B get, small as what they work on may be, against the same references.

On a device, or compiled for a target and executed (`test_compiled_kernels`): the interpreter knows no tiles.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from paged_case import PagedCase, paged_case
from test_cpu_sampling import random_logits
from test_cuda_sampling import varied
from test_triton_attention import TOLERANCE
from test_triton_attention import run as attend
from test_triton_products import expected_product, int8_rows, random_bytes
from test_triton_products import random_rows as random_inputs
from test_triton_rows import ROUNDING, decoded, empty_plane, random_rows
from triton_interpreter import CONVERTS_FP8, DEVICE, HAS_DEVICE, IS_INTERPRETED, torch

from vivace.backends.cuda.backend import CudaBackend
from vivace.backends.cuda.kernels import attention
from vivace.backends.cuda.kernels import matrix_product as matrix_product_module
from vivace.backends.cuda.kernels.attention_shape import AttentionShape
from vivace.backends.cuda.kernels.attention_tiles import LEAST_SHARED_BYTES, WIDE_SHARED_BYTES, whole_tile
from vivace.backends.cuda.kernels.coded_gate import coded_gate
from vivace.backends.cuda.kernels.coded_norm import coded_norm
from vivace.backends.cuda.kernels.gated_activation import gated_activation
from vivace.backends.cuda.kernels.kv_write import rope_write
from vivace.backends.cuda.kernels.matrix_product import matrix_product
from vivace.backends.cuda.kernels.paged_plane import RecentBlocks, channel_plane, fp8_plane
from vivace.backends.cuda.kernels.rms_norm import add_rms_norm
from vivace.backends.cuda.kernels.rope import rope
from vivace.backends.cuda.kernels.split import sum_parts
from vivace.backends.cuda.kernels.token_codes import token_codes
from vivace.backends.cuda.matrix import load_matrix
from vivace.backends.cuda.token_codes import TOKEN_ENCODINGS
from vivace.backends.cuda.token_codes import token_codes as token_codes_by_torch
from vivace.formats.dequantize import dequantize
from vivace.formats.fp8_rows import quantize_fp8
from vivace.ops import reference, reference_sampling
from vivace.ops.reference_activations import round_inliers, round_tokens, round_tokens_fp8

if IS_INTERPRETED:
    pytest.skip("needs a device, or VIVACE_PTX_TARGET", allow_module_level=True)

HEADS_OF_8B = AttentionShape(32, 8, 128, 0.09)
PLANES = [(dim, "float") for dim in (64, 128, 256, 512)] + [
    (128, kind) for kind in ("int8", "fp8", "fp8_native", "int4")
]


@pytest.fixture(params=["wide", "narrow"])
def tiles(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """As large as the device's shared memory allows, or as they are where a compiler wants more of it for them."""
    if request.param == "narrow":
        if attention.shared_bytes_of(DEVICE) < WIDE_SHARED_BYTES:
            pytest.skip("the device has no other tiles")
        monkeypatch.setattr(attention, "shared_bytes_of", lambda _: LEAST_SHARED_BYTES)
    return str(request.param)


@pytest.mark.parametrize("rows", ["decode", "guesses", "prefill"])
@pytest.mark.parametrize(("dim", "kind"), PLANES)
def test_attention(dim: int, kind: str, rows: str, tiles: str) -> None:
    if tiles == "narrow" and dim > 128:
        pytest.skip("these are never wide")
    if kind == "fp8_native" and not CONVERTS_FP8:
        pytest.skip("the target knows no 8-bit floats")
    guesses = max(4, whole_tile(dim) // 8)
    spans = {"decode": [(1, 300), (1, 3)], "guesses": [(guesses, 61)], "prefill": [(37, 91)]}[rows]
    shape = AttentionShape(32, 8, dim, 0.09)
    case = paged_case(np.random.default_rng(dim), spans, shape, kind=kind, dtype="bf16")
    np.testing.assert_allclose(attend(case), case.expected(), rtol=0, atol=TOLERANCE["bf16"])


@pytest.mark.parametrize("rows", ["decode", "prefill"])
@pytest.mark.parametrize("kind", ["float", "int8", "fp8", "fp8_native", "int4"])
def test_long_contexts(kind: str, rows: str) -> None:
    """So many tiles of keys that every stage of a pipeline is filled, read and filled again."""
    if kind == "fp8_native" and not CONVERTS_FP8:
        pytest.skip("the target knows no 8-bit floats")
    shape = AttentionShape(8, 2, 128, 0.09)
    spans = {"decode": [(1, 1030), (1, 512)], "prefill": [(37, 1041)]}[rows]
    case = paged_case(np.random.default_rng(len(kind)), spans, shape, kind=kind, dtype="bf16")
    np.testing.assert_allclose(attend(case), case.expected(), rtol=0, atol=TOLERANCE["bf16"])


def test_more_parts_than_are_added_at_once() -> None:
    case = paged_case(np.random.default_rng(7), [(1, 16700)], AttentionShape(4, 1, 128, 0.09), dtype="bf16")
    np.testing.assert_allclose(attend(case), case.expected(), rtol=0, atol=TOLERANCE["bf16"])


@pytest.mark.usefixtures("tiles")
def test_attention_with_a_window_and_a_cap() -> None:
    shape = AttentionShape(32, 8, 128, 0.09, window=1024, softcap=50.0)
    case = paged_case(np.random.default_rng(1), [(35, 1100)], shape, dtype="bf16")
    np.testing.assert_allclose(attend(case), case.expected(), rtol=0, atol=TOLERANCE["bf16"])


@pytest.mark.usefixtures("tiles")
def test_a_tree_of_guesses() -> None:
    """Row 2 follows row 0, row 3 follows row 1; across a block's end."""
    case = paged_case(np.random.default_rng(2), [(1, 31), (1, 32), (1, 32), (1, 33)], HEADS_OF_8B, dtype="bf16")
    case.inputs.block_tables_BX[1:, :2] = case.inputs.block_tables_BX[0, :2]
    case.inputs.parents_T = np.array([-1, 0, 0, 1], np.int32)
    np.testing.assert_allclose(attend(case), case.expected(), rtol=0, atol=TOLERANCE["bf16"])


@pytest.mark.usefixtures("tiles")
@pytest.mark.parametrize("spans", [[(1, 700), (1, 16)], [(37, 251)]], ids=["decode", "prefill"])
def test_keys_by_channel(spans: list[tuple[int, int]]) -> None:
    rng = np.random.default_rng(len(spans))
    case = paged_case(rng, spans, HEADS_OF_8B, kind="int4", dtype="bf16")
    blocks = len(case.keys.codes)
    levels = rng.integers(0, 16, (blocks, 8, 128, 16), dtype=np.uint8)
    ranges = torch.from_numpy(rng.uniform([0.2, -2], [0.25, -1.8], (blocks, 8, 128, 2))).bfloat16()
    recent = torch.from_numpy(rng.standard_normal((blocks + 1, 16, 8, 128))).half()
    rows = RecentBlocks(recent.to(DEVICE), torch.arange(1, blocks + 1, device=DEVICE))
    codes = torch.from_numpy(levels[..., :8] | levels[..., 8:] << 4).to(DEVICE)
    scale, minimum = ranges.float().numpy()[..., None, 0], ranges.float().numpy()[..., None, 1]
    case = replace(case, keys=channel_plane(codes, ranges.to(DEVICE), rows))
    expected = attended_by_channel(case, levels * scale + minimum, recent.float().numpy()[1:])
    np.testing.assert_allclose(attend(case), expected, rtol=0, atol=TOLERANCE["bf16"])


def attended_by_channel(case: PagedCase, decoded_keys: np.ndarray, recent: np.ndarray) -> np.ndarray:
    """By the definition: a row sees its own block as it was written, those before it as levels."""
    rows, inputs = [], case.inputs
    owners = np.repeat(np.arange(len(inputs.context_lens_B)), np.diff(inputs.query_starts_B1))
    for q_D, owner, last in zip(case.q_TD, owners, inputs.positions_T, strict=True):
        position = np.arange(last + 1)
        block, place = inputs.block_tables_BX[owner, position // 16], position % 16
        is_own = position // 16 == last // 16
        keys = np.where(is_own[:, None, None], recent[block, place], decoded_keys[block, :, :, place])
        scores = np.einsum("ghk,ngk->ghn", q_D.reshape(8, 4, 128), keys) * case.shape.scale
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        weights /= weights.sum(-1, keepdims=True)
        rows.append(np.einsum("ghn,ngk->ghk", weights, case.decoded_values[block, :, place]).reshape(-1))
    return np.stack(rows)


ENCODINGS = ("int4_g32", "int4_g128", "q4_0", "q8_0", "q4_k", "q5_k", "q6_k")


@pytest.mark.parametrize("num_rows", [1, 16, 64, 130])
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_products(encoding: str, num_rows: int) -> None:
    stored, x = random_bytes(encoding, 200, 512, 23), random_inputs(num_rows, 512, "bf16")
    result = matrix_product(x.to(DEVICE), load_matrix(stored, DEVICE)).cpu().numpy()
    expected = expected_product(x, stored, encoding)
    np.testing.assert_allclose(result, expected, rtol=0, atol=3e-6 * np.abs(expected).max())


def test_a_product_of_wide_numbers() -> None:
    stored, x = random_bytes("q4_k", 130, 512, 23), random_inputs(64, 512, "f32")
    result = matrix_product(x.to(DEVICE), load_matrix(stored, DEVICE)).cpu().numpy()
    expected = expected_product(x, stored, "q4_k")
    np.testing.assert_allclose(result, expected, rtol=0, atol=3e-6 * np.abs(expected).max())


@pytest.mark.parametrize("num_rows", [1, 64, 130])
@pytest.mark.parametrize("encoding", ["int8_channel", "int8_outlier", "fp8_channel", "decoded fp8"])
def test_products_of_8_bits(encoding: str, num_rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    x = random_inputs(num_rows, 640, "bf16")
    if encoding.startswith("int8"):
        weight = int8_rows(200, 640, 31, encoding)
        x[0, 7] = 9.0
        rounded = round_tokens(x.float().numpy()) if encoding == "int8_channel" else round_inliers(x.float().numpy())
    else:
        weight = quantize_fp8("matrix", random_inputs(200, 640, "f32").numpy())
        rounded = round_tokens_fp8(x.float().numpy())
        if encoding == "fp8_channel" and not CONVERTS_FP8:
            pytest.skip("the target knows no 8-bit floats")
        if encoding != "fp8_channel":
            monkeypatch.setattr(matrix_product_module, "multiplies_fp8", lambda _: False)
    result = matrix_product(x.to(DEVICE), load_matrix(weight, DEVICE)).cpu().numpy()
    expected = rounded.astype(np.float64) @ dequantize(weight).astype(np.float64).T
    np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize(
    ("dtype", "width", "encodings"),
    [("bf16", 4096, TOKEN_ENCODINGS), ("bf16", 5120, ["int8_channel"]), ("f32", 2048, ["fp8_channel"])],
)
def test_norms_and_their_codes(dtype: str, width: int, encodings: list[str]) -> None:
    """Of a norm the codes of torch's, to the bit."""
    (x, x_TD), (y, y_TD), (weight, weight_D) = (
        random_rows(shape, dtype) for shape in [(3, width), (3, width), (width,)]
    )
    weight, weight_D = weight.float(), weight_D
    total, normed = add_rms_norm(x, y, weight, 1e-6)
    rounded = torch.from_numpy(x_TD + y_TD).to(x.dtype).float().numpy()
    expected = reference.rms_norm(rounded, weight_D, 1e-6, 1)
    np.testing.assert_allclose(
        normed.float().cpu().numpy(), expected, rtol=1e-2 if dtype == "bf16" else 1e-5, atol=1e-5
    )
    for encoding in encodings:
        added, coded = coded_norm(x, y, weight, 1e-6, encoding)
        by_torch = token_codes_by_torch(normed, encoding)
        assert torch.equal(added, total)
        assert torch.equal(coded.codes_TD, by_torch.codes_TD)
        assert torch.equal(coded.scales_T, by_torch.scales_T)


def test_codes_of_tokens() -> None:
    x, _ = random_rows((2, 4096), "bf16")
    x[1, 5] = 40.0
    coded, by_torch = token_codes(x, "int8_outlier"), token_codes_by_torch(x, "int8_outlier")
    assert torch.equal(coded.codes_TD, by_torch.codes_TD)
    assert torch.equal(coded.scales_T, by_torch.scales_T)


def test_gated_activation() -> None:
    x, x_TD = random_rows((2, 2 * 1100), "bf16")
    result = gated_activation(x, "silu").float().cpu().numpy()
    np.testing.assert_allclose(result, reference.gated_activation(x_TD, "silu"), rtol=1e-2, atol=1e-5)


@pytest.mark.parametrize(
    ("width", "encoding"), [*((14336, encoding) for encoding in TOKEN_ENCODINGS), (28672, "int8_outlier")]
)
def test_codes_of_gated_activations(width: int, encoding: str) -> None:
    """Of the activations the codes of torch's, to the bit."""
    x, _ = random_rows((2, 2 * width), "bf16")
    x = 3 * x
    coded, gated = coded_gate(x, "silu", encoding), gated_activation(x, "silu")
    by_torch = token_codes_by_torch(gated, encoding)
    assert torch.equal(coded.codes_TD, by_torch.codes_TD)
    assert torch.equal(coded.scales_T, by_torch.scales_T)
    if encoding == "int8_outlier":
        assert coded.values_TD is not None
        assert coded.outliers_TS is not None
        assert torch.equal(coded.values_TD, gated)
        assert coded.outliers_TS.any()


def turns(num_rows: int) -> tuple[np.ndarray, torch.Tensor]:
    table_T2P = reference.rope_table(
        np.arange(5, 5 + num_rows, dtype=np.int32), np.linspace(1, 0.01, 64, dtype=np.float32), 1.0
    )
    return table_T2P, torch.from_numpy(table_T2P).to(DEVICE)


def test_rope() -> None:
    (x, x_TD), (table_T2P, table) = random_rows((3, 32 * 128), "bf16"), turns(3)
    result = rope(x, table, 128).float().cpu().numpy()
    np.testing.assert_allclose(result, reference.rope(x_TD, table_T2P, 128), rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("kind", ["float", "int8", "int4", "fp8"])
def test_turned_queries_and_written_keys(kind: str) -> None:
    """Values, which are not turned, to the bit."""
    (rows, rows_TD), (table_T2P, table) = random_rows((3, 48 * 128), "bf16"), turns(3)
    parts, parts_TD = rows.split((4096, 1024, 1024), dim=1), np.split(rows_TD, (4096, 5120), axis=1)
    slots = torch.tensor([1, 2, 50], dtype=torch.int32, device=DEVICE)
    planes = [eight_heads(kind) for _ in range(2)]
    turned = rope_write(*parts, table, slots, *planes).float().cpu().numpy()
    q_TD, k_TD = (reference.rope(part, table_T2P, 128) for part in parts_TD[:2])
    np.testing.assert_allclose(turned, q_TD, rtol=1e-2, atol=1e-2)
    if kind != "fp8":
        keys, values = (decoded(plane, slots.cpu().numpy()) for plane in planes)
        np.testing.assert_array_equal(values, ROUNDING[kind](parts_TD[2].reshape(3, 8, 128)))
        np.testing.assert_allclose(
            keys, k_TD.reshape(3, 8, 128), rtol=0, atol={"float": 0.03, "int8": 0.06, "int4": 0.5}[kind]
        )


def eight_heads(kind: str) -> object:
    if kind == "fp8":
        codes = torch.zeros((4, 16, 8, 128), dtype=torch.uint8, device=DEVICE)
        return fp8_plane(codes, torch.zeros((4, 16, 8, 1), dtype=torch.bfloat16, device=DEVICE), is_native=False)
    return empty_plane(kind, 128, torch.bfloat16, num_heads=8)


def test_sums_of_parts() -> None:
    parts, bias = (random_rows(shape, "f32")[0] for shape in [(8, 3, 700), (700,)])
    out = torch.empty((3, 700), dtype=torch.bfloat16, device=DEVICE)
    sum_parts(parts, out, bias)
    np.testing.assert_allclose(out.float().cpu(), (parts.sum(0) + bias).cpu(), rtol=1e-2, atol=1e-2)


def test_sampling_and_ranks() -> None:
    """A vocabulary of several tiles."""
    backend, rng = CudaBackend(str(DEVICE), interpreted=not HAS_DEVICE), np.random.default_rng(3)
    logits = random_logits(rng, 6, 9001)
    sample = varied(rng, 6, 9001)
    expected = reference_sampling.sample(logits.copy(), sample)
    on_device = torch.from_numpy(logits).to(DEVICE)
    assert backend.sample(on_device.clone(), sample).tolist() == expected.tolist()
    tokens = np.array([1, 5, 9000, -1, 299, 17], np.int32)
    ranked = reference_sampling.top_logprobs(logits.copy(), tokens, 3)
    actual = backend.top_logprobs(on_device, tokens, 3)
    assert actual.rank_S.tolist() == ranked.rank_S.tolist()
    assert actual.top_ids_SK.tolist() == ranked.top_ids_SK.tolist()
