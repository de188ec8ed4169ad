"""Kernels on the backend's own cache and matrices do what its torch operations do."""

from __future__ import annotations

import numpy as np
import pytest
from triton_interpreter import DEVICE, torch

from vivace.backends.cuda.kernels.cache_view import layer_plane
from vivace.backends.cuda.kernels.kv_write import kv_write
from vivace.backends.cuda.kernels.matrix_product import matrix_product, product_case
from vivace.backends.cuda.kernels.registry import supports
from vivace.backends.cuda.kv_planes import FloatPlane, Fp8Plane, Int4Plane, Int8Plane, TokenPlane
from vivace.backends.cuda.matrix import load_matrix
from vivace.formats.dequantize import dequantize
from vivace.formats.quantize_rtn import encode
from vivace.formats.tensor import StoredTensor
from vivace.ops.backend import KVSpec


def empty(kind: str) -> TokenPlane:
    spec = KVSpec(2, 2, 64, 16, kind)  # type: ignore[arg-type]
    if kind == "bf16":
        return FloatPlane(spec, 4, torch.bfloat16, DEVICE)
    planes: dict[str, type[Int8Plane | Int4Plane | Fp8Plane]] = {
        "int8_per_token_head": Int8Plane,
        "int4_per_token_head": Int4Plane,
        "fp8_e4m3": Fp8Plane,
    }
    return planes[kind](spec, 4, DEVICE)


@pytest.mark.parametrize("kind", ["bf16", "int8_per_token_head", "int4_per_token_head", "fp8_e4m3"])
def test_caches_have_the_same_bytes(kind: str) -> None:
    rows = torch.from_numpy(np.random.default_rng(41).standard_normal((5, 2 * 64), dtype=np.float32)).to(DEVICE)
    rows[1] *= 10.0 ** torch.linspace(-9, 0, 128, device=DEVICE)  # down to numbers that e4m3 has few bits for
    rows[2, 5], rows[3] = torch.nan, 0
    slots = torch.tensor([3, 60, 17, 0, 33], device=DEVICE)
    by_torch, by_kernel = empty(kind), empty(kind)
    by_torch.write(1, slots, rows.unflatten(1, (2, 64)))
    plane = layer_plane(by_kernel, 1)
    kv_write(rows, rows, slots, plane, plane)
    for expected, written in zip(by_torch.tensors, by_kernel.tensors, strict=True):
        assert torch.equal(written.nan_to_num(7.0), expected.nan_to_num(7.0))


@pytest.mark.parametrize("encoding", ["q4_0", "q8_0"])
def test_products(encoding: str) -> None:
    rng = np.random.default_rng(43)
    dense = StoredTensor("matrix", "f32", (40, 64), rng.standard_normal((40, 64), dtype=np.float32).view(np.uint8))
    stored = encode(dequantize(dense), encoding, "matrix")
    order = rng.permutation(64).astype(np.int32)
    ordered = StoredTensor(stored.name, stored.encoding, stored.shape, stored.data, order)
    matrix = load_matrix(ordered, DEVICE)
    x_TD = rng.standard_normal((3, 64), dtype=np.float32)
    x = torch.from_numpy(x_TD).to(DEVICE)
    assert supports(product_case(x, matrix)) is None
    expected = x_TD[:, order] @ dequantize(stored).T
    np.testing.assert_allclose(matrix_product(x, matrix).cpu().numpy(), expected, rtol=1e-4, atol=1e-4)


def test_dense_products_are_left_to_torch() -> None:
    dense = StoredTensor("matrix", "f32", (2, 8), np.zeros((2, 32), np.uint8))
    reason = supports(product_case(torch.zeros((1, 8), device=DEVICE), load_matrix(dense, DEVICE)))
    assert reason == "no kernel multiplies with a matrix of float32"
