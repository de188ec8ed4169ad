"""Bytes of packed and stored matrices: against the backend's own packing, and against published sizes."""

from __future__ import annotations

from pathlib import Path

import pytest

from vivace.backends.cpu.backend import LAYOUTS, CpuBackend
from vivace.core.config import EngineConfig
from vivace.core.errors import ConfigError
from vivace.engine.loader import load_engine
from vivace.formats.ggml_types import GGML_TYPES
from vivace.models.dummy import DummyTensors
from vivace.models.parameter_shapes import layer_shapes
from vivace.models.presets import preset_spec
from vivace.plan.hardware import hardware
from vivace.plan.layout import packed_bytes, stored_bytes
from vivace.plan.planned_model import planned_model
from vivace.plan.weights import StoredEncodings, quantization_name, weight_plan
from vivace.quantize.gguf_export import export_gguf
from vivace.resources import embedded_model_path

# ggml-quants: bits a weight of each type.
PUBLISHED_BITS = {"q4_0": 4.5, "q4_1": 5.0, "q5_0": 5.5, "q8_0": 8.5, "q4_k": 4.5, "q5_k": 5.5, "q6_k": 6.5625}


@pytest.fixture(scope="module")
def backend() -> CpuBackend:
    return CpuBackend(num_threads=1)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", [(16, 256), (33, 512), (1, 768)])
def test_packed_bytes_are_what_the_backend_takes(backend: CpuBackend, layout: str, shape: tuple[int, int]) -> None:
    tensor = DummyTensors(layout, 0).matrix("weight", shape)
    assert tensor.encoding == layout
    assert backend.pack("weight", tensor).num_bytes == packed_bytes(layout, *shape)


@pytest.mark.parametrize(("layout", "bits"), PUBLISHED_BITS.items())
def test_bits_of_a_weight_are_the_published_ones(layout: str, bits: float) -> None:
    assert 8 * stored_bytes(layout, 1, 4096) / 4096 == bits


def test_stored_bytes_are_those_of_ggml() -> None:
    for ggml_type in GGML_TYPES.values():
        if ggml_type.encoding is not None:
            blocks = 3 * (512 // ggml_type.block_elements)
            assert stored_bytes(ggml_type.encoding, 3, 512) == blocks * ggml_type.block_bytes


@pytest.mark.parametrize("quantization", ["f32", "bf16", "int8", "int4", "w8a8", "llm_int8"])
def test_planned_weights_are_what_the_engine_loads(quantization: str) -> None:
    config = EngineConfig(quantization=quantization, num_threads=1, max_num_seqs=2, max_model_len=64)  # type: ignore[arg-type]
    loaded = load_engine(config)
    planned = weight_plan(loaded.spec, quantization, "cpu")
    rope = loaded.parameters.rope.short.num_bytes
    assert planned.num_bytes in (loaded.weight_bytes, loaded.weight_bytes - rope)
    layouts = [one.layout for one in planned.products if not one.is_head]
    assert layouts == [loaded.parameters.layers[0].q.layout]


def test_a_16_bit_model_of_a_gpu_is_two_bytes_a_parameter() -> None:
    """Llama 3.1 8B has 8,030,261,248 parameters; its vectors (65 norms of 4096) are kept in float32."""
    plan = weight_plan(preset_spec("llama-3.1-8b"), "bf16", "gpu")
    assert plan.num_bytes == 2 * 8_030_261_248 + 2 * 65 * 4096


def test_tables_of_checkpoint_formats_stay_in_16_bits() -> None:
    spec = preset_spec("llama-3.1-8b")
    awq = weight_plan(spec, "awq", "gpu")
    assert {(one.layout, one.is_head) for one in awq.products} == {("int4_g128", False), ("bf16", True)}


@pytest.mark.parametrize("encoding", ["Q4_K_M", "Q8_0"])
def test_a_gguf_file_keeps_its_own_encodings(tmp_path: Path, encoding: str) -> None:
    file = tmp_path / "model.gguf"
    export_gguf(embedded_model_path(), file, encoding)
    model = planned_model(str(file))
    loaded = load_engine(EngineConfig(model=str(file), num_threads=1, max_num_seqs=2, max_model_len=64))
    planned = weight_plan(model.spec, "stored", "cpu", model.stored)
    assert loaded.weight_bytes - planned.num_bytes in (0, loaded.parameters.rope.short.num_bytes)
    assert weight_plan(model.spec, encoding, "cpu").num_bytes == planned.num_bytes


@pytest.mark.parametrize(("name", "message"), [("int3", "did you mean"), ("q4_k", "Q4_K_M")])
def test_an_unknown_quantization_names_the_nearest(name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        quantization_name(name)


def test_fp8_is_refused_on_processors_and_stored_without_a_file() -> None:
    spec = preset_spec("smollm2-135m")
    with pytest.raises(ConfigError, match="for GPUs"):
        weight_plan(spec, "fp8", "cpu")
    with pytest.raises(ConfigError, match="only a model file"):
        weight_plan(spec, "stored", "cpu")


def test_a_stored_fp8_model_is_held_in_16_bits_on_a_processor_and_in_8_on_a_gpu() -> None:
    """As the loader and both backends do."""
    spec = preset_spec("smollm2-135m")
    names = [f"layers.{layer}.{name}" for layer in range(spec.num_layers) for name in layer_shapes(spec)]
    stored = StoredEncodings(dict.fromkeys(names, "fp8_channel"))
    assert weight_plan(spec, "stored", "cpu", stored).num_bytes == weight_plan(spec, "bf16", "cpu").num_bytes
    assert weight_plan(spec, "stored", "gpu", stored).num_bytes == weight_plan(spec, "fp8", "gpu").num_bytes
    layouts = {product.layout for product in weight_plan(spec, "stored", "gpu", stored).products}
    assert {hardware("h100").unit(layout) for layout in layouts} == {"bf16", "fp8"}  # the head stays in 16 bits
