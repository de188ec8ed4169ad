"""Weights that do not fit a device are refused by headers alone, with the numbers and what would fit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="the backend is torch's")

from vivace.backends.cuda.backend import CudaBackend
from vivace.core.config import EngineConfig
from vivace.core.errors import ConfigError
from vivace.engine.loader import load_engine
from vivace.engine.source import locate
from vivace.formats.checkpoint import open_checkpoint
from vivace.models.hf_config import read_hf_config
from vivace.models.parameters import QUANTIZED_ENCODINGS
from vivace.models.weight_bytes import dummy_weight_bytes, least_weight_bytes

LLAMA: dict[str, Any] = {
    "model_type": "llama", "rms_norm_eps": 1e-5, "rope_theta": 500000.0, "hidden_act": "silu",
    "max_position_embeddings": 8192, "tie_word_embeddings": False,
}  # fmt: skip
SMALL = LLAMA | {
    "hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "vocab_size": 128,
}  # fmt: skip
OF_70B = LLAMA | {
    "hidden_size": 8192, "intermediate_size": 28672, "num_hidden_layers": 80, "num_attention_heads": 64,
    "num_key_value_heads": 8, "vocab_size": 128256,
}  # fmt: skip
ON_TORCH: dict[str, Any] = {"backend": "cuda", "device": "cpu", "num_kv_blocks": 8}


def written(folder: Path, shape: dict[str, Any]) -> str:
    file = folder / "config.json"
    file.write_text(json.dumps(shape))
    return str(file)


@pytest.mark.parametrize("quantization", ["auto", "f32", "bf16", "int8", "int4", "w8a8", "llm_int8", "fp8"])
@pytest.mark.parametrize("is_dummy", [False, True])
def test_what_was_foreseen_is_what_is_held(quantization: Any, is_dummy: bool, tmp_path: Path) -> None:
    options = ON_TORCH | ({"load_format": "dummy", "config": written(tmp_path, SMALL)} if is_dummy else {})
    loaded = load_engine(EngineConfig(**options, quantization=quantization))
    source, spec = locate(None), loaded.spec
    wanted = None if quantization == "auto" else quantization
    if is_dummy:
        foreseen = dummy_weight_bytes(spec, QUANTIZED_ENCODINGS[wanted or "bf16"])
    else:
        with open_checkpoint(source.path) as checkpoint:
            foreseen = least_weight_bytes(read_hf_config(source.path), checkpoint, wanted)
    assert 0.999 * loaded.weight_bytes <= foreseen <= loaded.weight_bytes


@pytest.fixture
def small_device(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """80 GiB free of 80; nothing may be sent there."""
    asked: list[float] = []

    def free_bytes(_: CudaBackend, share: float) -> int:
        asked.append(share)
        return int(share * (80 << 30))

    def pack(*_: object) -> None:
        raise AssertionError("a weight was read")

    monkeypatch.setattr(CudaBackend, "free_bytes", free_bytes)
    monkeypatch.setattr(CudaBackend, "pack", pack)
    return asked


def test_a_model_that_is_too_large_is_refused_before_it_is_read(small_device: list[float], tmp_path: Path) -> None:
    file = written(tmp_path, OF_70B)
    model: dict[str, Any] = {"load_format": "dummy", "config": file, "backend": "cuda", "device": "cpu"}
    message = r"the weights take 131\.\d+ GiB as stored, and cpu has 72\.00 GiB free for them \(--gpu-mem.* 0\.9\)"
    with pytest.raises(ConfigError, match=message + r": use --quantization int8 \(6\d\.\d+ GiB\), another device"):
        load_engine(EngineConfig(**model))
    with pytest.raises(ConfigError, match=r"80\.00 GiB free for them: use --quantization int8"):
        load_engine(EngineConfig(**model, num_kv_blocks=10))
    with pytest.raises(ConfigError, match=r"as bf16, .* 24\.00 GiB .*: use a checkpoint of fewer bits"):
        load_engine(EngineConfig(**model, quantization="bf16", gpu_memory_utilization=0.3))
    with pytest.raises(ConfigError, match=r"as f32, .* use --quantization int4 \(3\d\.\d+ GiB\)"):
        load_engine(EngineConfig(**model, quantization="f32", gpu_memory_utilization=0.6))
    assert small_device


def test_what_fits_is_loaded(small_device: list[float]) -> None:
    with pytest.raises(AssertionError, match="a weight was read"):
        load_engine(EngineConfig(backend="cuda", device="cpu"))
    assert small_device == [0.9]
