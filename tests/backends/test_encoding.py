"""The native encoders against NumPy's, which quantize_rtn's own tests hold to ggml's: every bit."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from vivace.backends.cpu.backend import CpuBackend
from vivace.core.errors import UnsupportedError
from vivace.formats.dequantize import dequantize
from vivace.formats.quantize_rtn import encode
from vivace.formats.tensor import StoredTensor

ENCODINGS = ("q8_0", "q4_0")


@pytest.fixture(scope="module")
def backend() -> CpuBackend:
    return CpuBackend(2)


def hard_rows() -> NDArray[np.float32]:
    """Blocks of all magnitudes that a half-precision scale can hold, zeros of both signs, ties, and equal maxima."""
    random = np.random.default_rng(11)
    rows = random.standard_normal((1200, 128)).astype(np.float32)
    rows *= (2.0 ** random.integers(-60, 15, (1200, 1))).astype(np.float32)
    rows[::7] *= random.integers(0, 2, (len(rows[::7]), 128)).astype(np.float32)
    rows[1::50] = 0
    rows[2::50] = -0.0
    rows[3::50] = np.round(rows[3::50] / rows[3::50].max() * 254) / 2  # q8_0 ties: halves of the scale
    rows[4::50] = np.where(random.integers(0, 2, (len(rows[4::50]), 128)), 8.0, -8.0)
    rows[5::50] = np.round(random.uniform(-16, 16, (len(rows[5::50]), 128))) / 2
    rows[6::50, ::32] = np.float32(1e-41)
    return rows


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("source", ["f32", "f16", "bf16"])
def test_every_bit(backend: CpuBackend, source: str, encoding: str) -> None:
    rows = hard_rows()
    if source == "f16":
        rows = np.clip(rows, -60_000, 60_000)
    stored = encode(rows, source, "w")
    expected = encode(dequantize(stored), encoding, "w")
    encoded = backend.encode(stored, encoding)
    assert (encoded.name, encoded.encoding, encoded.shape) == ("w", encoding, rows.shape)
    np.testing.assert_array_equal(encoded.data, expected.data)


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_rows_of_a_larger_matrix(backend: CpuBackend, encoding: str) -> None:
    stored = encode(hard_rows(), "bf16", "w").select_rows(slice(10, 90, 3))
    np.testing.assert_array_equal(
        backend.encode(stored, encoding).data, encode(dequantize(stored), encoding, "w").data
    )


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e38])
def test_what_no_scale_holds_is_refused(backend: CpuBackend, encoding: str, bad: float) -> None:
    rows = hard_rows()
    rows[777, 77] = bad
    with pytest.raises(UnsupportedError, match="w"):
        backend.encode(encode(rows, "f32", "w"), encoding)


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_the_largest_scale(backend: CpuBackend, encoding: str) -> None:
    divisor = {"q8_0": 127, "q4_0": 8}[encoding]
    for scale, fits in ((65_519.0, True), (65_520.0, False)):
        rows = np.full((1, 32), scale * divisor, np.float32)
        tensor = encode(rows, "f32", "w")
        if fits:
            np.testing.assert_array_equal(backend.encode(tensor, encoding).data, encode(rows, encoding).data)
        else:
            with pytest.raises(UnsupportedError):
                backend.encode(tensor, encoding)


def test_other_encodings_go_the_slow_way(backend: CpuBackend) -> None:
    rows = hard_rows()[:40]
    tensor: StoredTensor = encode(rows, "f32", "w")
    np.testing.assert_array_equal(backend.encode(tensor, "bf16").data, encode(rows, "bf16").data)
    with pytest.raises(UnsupportedError, match="multiple of 32"):
        backend.encode(encode(rows[:, :50].copy(), "f32", "w"), "q4_0")
