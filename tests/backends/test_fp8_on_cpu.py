"""8-bit floats on a processor: matrices that a checkpoint stores so become bfloat16; rounding to them is refused."""

from __future__ import annotations

import numpy as np
import pytest

from vivace.backends.cpu.backend import CpuBackend
from vivace.core.config import EngineConfig
from vivace.core.errors import ConfigError
from vivace.engine.backend import make_backend
from vivace.formats.dequantize import dequantize
from vivace.formats.fp8_rows import quantize_fp8
from vivace.formats.quantize_rtn import encode


def test_stored_matrices_become_bfloat16() -> None:
    backend = CpuBackend(num_threads=1)
    stored = quantize_fp8("w", np.random.default_rng(2).standard_normal((33, 64)).astype(np.float32))
    weight = backend.pack("w", stored)
    plain = backend.pack("w", encode(dequantize(stored), "bf16"))
    assert (weight.layout, weight.shape, weight.num_bytes) == ("bf16", (33, 64), plain.num_bytes)


def test_rounding_to_them_is_refused() -> None:
    with pytest.raises(ConfigError, match="use int8 or w8a8"):
        make_backend(EngineConfig(quantization="fp8", device="cpu"))
