"""Norms, rope, cache writes and activations against `vivace.ops.reference`, in the interpreter or on a device."""

from __future__ import annotations

import numpy as np
import pytest
from paged_case import TYPES
from triton_interpreter import DEVICE, torch

from vivace.backends.cuda.kernels.coded_gate import coded_gate
from vivace.backends.cuda.kernels.coded_norm import coded_norm
from vivace.backends.cuda.kernels.gated_activation import gated_activation
from vivace.backends.cuda.kernels.kv_write import kv_write, rope_write
from vivace.backends.cuda.kernels.paged_plane import PagedPlane, float_plane, int4_plane, int8_plane
from vivace.backends.cuda.kernels.rms_norm import add_rms_norm, rms_norm
from vivace.backends.cuda.kernels.rope import rope
from vivace.backends.cuda.kernels.token_codes import token_codes
from vivace.backends.cuda.token_codes import TOKEN_ENCODINGS
from vivace.backends.cuda.token_codes import token_codes as token_codes_by_torch
from vivace.ops import reference, reference_kv

TOLERANCE = {"f32": 1e-5, "f16": 4e-3, "bf16": 4e-2}
RNG = np.random.default_rng(17)


def random_rows(shape: tuple[int, ...], dtype: str) -> tuple[torch.Tensor, np.ndarray]:
    """On the device, and as float32."""
    rows = torch.from_numpy(RNG.standard_normal(shape, dtype=np.float32)).to(TYPES[dtype])
    return rows.to(DEVICE), rows.float().numpy()


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize(("groups", "width"), [(1, 96), (3, 40)])
def test_rms_norm(dtype: str, groups: int, width: int) -> None:
    x, x_TD = random_rows((5, 2 * groups * width), dtype)
    part, part_TD = x[:, groups * width :], x_TD[:, groups * width :]  # columns of a wider value
    weight, weight_D = random_rows((width,), "f32")
    result = rms_norm(part, weight, 1e-5, groups).float().cpu().numpy()
    expected = reference.rms_norm(part_TD, weight_D, 1e-5, groups)
    np.testing.assert_allclose(result, expected, rtol=0, atol=TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_norm_of_a_sum(dtype: str) -> None:
    (x, x_TD), (y, y_TD) = random_rows((4, 72), dtype), random_rows((4, 72), dtype)
    weight, weight_D = random_rows((72,), "f32")
    total, normed = add_rms_norm(x, y, weight, 1e-6)
    rounded = torch.from_numpy(x_TD + y_TD).to(TYPES[dtype]).float()
    assert torch.equal(total.float().cpu(), rounded)
    expected = reference.rms_norm(rounded.numpy(), weight_D, 1e-6, 1)
    np.testing.assert_allclose(normed.float().cpu().numpy(), expected, rtol=0, atol=TOLERANCE[dtype])


@pytest.mark.filterwarnings("ignore:invalid value")  # infinity times 0 in the interpreter
@pytest.mark.parametrize("encoding", TOKEN_ENCODINGS)
@pytest.mark.parametrize(("dtype", "width"), [("f32", 80), ("f16", 128), ("bf16", 200), ("bf16", 640)])
@pytest.mark.parametrize("has_residual", [False, True])
def test_codes_of_a_norm(encoding: str, dtype: str, width: int, has_residual: bool) -> None:
    """To the bit those of the norm as it would be stored: columns of wider rows, rows of zeros, rows not finite."""
    (x, _), (y, _) = random_rows((5, 2 * width), dtype), random_rows((5, 2 * width), dtype)
    x, y = x[:, width:], y[:, :width]
    x[1], y[1], x[2, 3], x[3, 5] = 0, 0, torch.inf, torch.nan
    weight = 3 * torch.rand(width, device=DEVICE) + 1  # beyond 6.0 now and then: an outlier
    total, coded = coded_norm(x, y if has_residual else None, weight, 1e-5, encoding)
    if has_residual:
        expected_total, normed = add_rms_norm(x, y, weight, 1e-5)
        assert total is not None
        assert torch.equal(total.nan_to_num(7), expected_total.nan_to_num(7))
    else:
        assert total is None
        normed = rms_norm(x, weight, 1e-5)
    expected, by_torch = token_codes(normed, encoding), token_codes_by_torch(normed, encoding)
    for one in (expected, by_torch):
        assert torch.equal(coded.codes_TD, one.codes_TD)
        assert torch.equal(coded.scales_T.nan_to_num(7), one.scales_T.nan_to_num(7))
    assert coded.dtype == by_torch.dtype == x.dtype
    if encoding == "int8_outlier":
        assert coded.values_TD is not None
        assert coded.outliers_TS is not None
        assert torch.equal(coded.values_TD.nan_to_num(7), normed.nan_to_num(7))
        assert torch.equal(coded.outliers_TS, expected.outliers_TS)
        assert width < 200 or coded.outliers_TS.any()


@pytest.mark.filterwarnings("ignore:invalid value")  # infinity times 0 in the interpreter
@pytest.mark.parametrize("encoding", TOKEN_ENCODINGS)
@pytest.mark.parametrize(("dtype", "width"), [("f32", 80), ("f16", 130), ("bf16", 200), ("bf16", 1064)])
@pytest.mark.parametrize("activation", ["silu", "gelu", "gelu_tanh"])
def test_codes_of_a_gated_activation(encoding: str, dtype: str, width: int, activation: str) -> None:
    """To the bit those of the activation as it would be stored; rows of zeros, rows not finite."""
    x, _ = random_rows((5, 2 * width + 16), dtype)
    x = 3 * x[:, 16:]
    x[1], x[2, 3], x[3, width + 5] = 0, torch.inf, torch.nan
    coded = coded_gate(x, activation, encoding)  # type: ignore[arg-type]
    gated = gated_activation(x, activation)  # type: ignore[arg-type]
    expected, by_torch = token_codes(gated, encoding), token_codes_by_torch(gated, encoding)
    for one in (expected, by_torch):
        assert torch.equal(coded.codes_TD, one.codes_TD)
        assert torch.equal(coded.scales_T.nan_to_num(7), one.scales_T.nan_to_num(7))
    assert coded.scales_T.isnan().tolist() == [False, False, encoding != "int8_outlier", True, False]
    assert coded.dtype == by_torch.dtype == x.dtype
    if encoding == "int8_outlier":
        assert coded.values_TD is not None
        assert coded.outliers_TS is not None
        assert torch.equal(coded.values_TD.nan_to_num(7), gated.nan_to_num(7))
        assert torch.equal(coded.outliers_TS, expected.outliers_TS)
        assert coded.outliers_TS.any()


@pytest.mark.parametrize("activation", ["silu", "gelu", "gelu_tanh"])
def test_gated_activation(activation: str) -> None:
    x, x_TD = random_rows((3, 2 * 130), "f32")
    result = gated_activation(4 * x, activation).cpu().numpy()  # type: ignore[arg-type]
    expected = reference.gated_activation(4 * x_TD, activation)  # type: ignore[arg-type]
    np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("num_pairs", [24, 10])
def test_rope(num_pairs: int) -> None:
    x, x_TD = random_rows((3, 2 * 48), "f32")
    table_T2P = reference.rope_table(np.array([0, 7, 500], np.int32), RNG.random(num_pairs, np.float32), 1.0)
    result = rope(x, torch.from_numpy(table_T2P).to(DEVICE), 48).cpu().numpy()
    np.testing.assert_allclose(result, reference.rope(x_TD, table_T2P, 48), rtol=0, atol=1e-5)


def empty_plane(kind: str, dim: int, dtype: torch.dtype, num_heads: int = 2) -> PagedPlane:
    size = (4, 16, num_heads)
    if kind == "float":
        return float_plane(torch.zeros((*size, dim), dtype=dtype, device=DEVICE))
    groups = () if kind == "int8" else (dim // 32,)
    ranges = torch.zeros((*size, *groups, 2), dtype=torch.bfloat16, device=DEVICE)
    codes = torch.zeros((*size, *groups, dim if kind == "int8" else 16), dtype=torch.uint8, device=DEVICE)
    return int8_plane(codes, ranges) if kind == "int8" else int4_plane(codes, ranges)


def decoded(plane: PagedPlane, slots: np.ndarray) -> np.ndarray:
    """float32 [T, G, K] of these slots."""
    codes = plane.codes.flatten(0, 1)[slots].cpu()
    if plane.ranges is None:
        return codes.float().numpy()
    ranges = plane.ranges.flatten(0, 1)[slots].float().cpu()  # [T, G, groups, 2]
    if plane.kind == "int4":
        pairs = codes.unflatten(-1, (-1, 16))
        codes = torch.cat([pairs & 15, pairs >> 4], dim=-1).flatten(-2)
    grouped = codes.float().unflatten(-1, (ranges.shape[2], -1))
    return (grouped * ranges[..., :1] + ranges[..., 1:]).flatten(-2).numpy()


ROUNDING = {"float": reference_kv.round_bf16, "int8": reference_kv.round_int8, "int4": reference_kv.round_int4}


@pytest.mark.parametrize(("kind", "dim"), [("float", 48), ("int8", 48), ("int4", 64), ("int4", 96)])
def test_written_keys_read_back_as_defined(kind: str, dim: int) -> None:
    """To the bit, not-finite vectors and such of equal numbers among them."""
    (k, k_TD), (v, v_TD) = random_rows((6, 2 * dim), "f32"), random_rows((6, 2 * dim), "f32")
    for rows in (k, k_TD):
        rows[1, :dim], rows[2, 3], rows[3, :] = 0.3, np.inf if kind != "float" else 1.0, 1e-32
        rows[4, dim + 5] = np.nan if kind != "float" else 1.0
    keys, values = (empty_plane(kind, dim, torch.bfloat16) for _ in range(2))
    slots = np.array([5, 63, 16, 0, 31, 40])
    kv_write(k, v, torch.from_numpy(slots.astype(np.int32)).to(DEVICE), keys, values)
    for plane, x_TD in ((keys, k_TD), (values, v_TD)):
        expected = ROUNDING[kind](x_TD.reshape(6, 2, dim))
        np.testing.assert_array_equal(decoded(plane, slots), expected)
    untouched = np.setdiff1d(np.arange(64), slots)
    assert not keys.codes.flatten(0, 1)[untouched].any()


def test_queries_and_keys_are_turned_in_one_launch() -> None:
    rows, rows_TD = random_rows((3, 4 * 32 + 2 * 32 + 2 * 32), "f32")  # four heads of queries, two of keys and values
    parts, parts_TD = rows.split((128, 64, 64), dim=1), np.split(rows_TD, (128, 192), axis=1)
    table_T2P = reference.rope_table(np.array([3, 4, 90], np.int32), RNG.random(16, np.float32), 1.0)
    keys, values = (empty_plane("float", 32, torch.float32) for _ in range(2))
    slots = torch.tensor([1, 2, 50], dtype=torch.int32, device=DEVICE)
    turned = rope_write(*parts, torch.from_numpy(table_T2P).to(DEVICE), slots, keys, values)
    q_TD, k_TD = (reference.rope(part, table_T2P, 32) for part in parts_TD[:2])
    np.testing.assert_allclose(turned.cpu().numpy(), q_TD, rtol=0, atol=1e-5)
    written = slots.cpu().numpy()
    np.testing.assert_allclose(decoded(keys, written), k_TD.reshape(3, 2, 32), rtol=0, atol=1e-5)
    np.testing.assert_array_equal(decoded(values, written), parts_TD[2].reshape(3, 2, 32))
