"""A quantised directory looks like any other; what cannot be read is refused by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from quantized_directory import MODULE, read_weight, write_directory, write_module
from quantized_packers import (
    AWQ_CONFIG,
    GPTQ_CONFIG,
    LLM_INT8_CONFIG,
    awq_tensors,
    compressed_config,
    gptq_tensors,
    int_quantized_tensors,
    llm_int8_tensors,
    packed_quantized_tensors,
    random_quantized,
)
from safetensors.numpy import save_file

from vivace.core.errors import EngineError, ModelFileError
from vivace.formats.checkpoint import open_checkpoint, open_safetensors
from vivace.formats.dequantize import dequantize

SEED = 66
Q4 = random_quantized(np.random.default_rng(SEED), 8, 64, 4, 32, symmetric=False)
Q8 = random_quantized(np.random.default_rng(SEED), 8, 64, 8, 64, symmetric=True)
KINDS: dict[str, tuple[dict[str, Any], dict[str, np.ndarray]]] = {
    "gptq": (GPTQ_CONFIG, gptq_tensors(Q4)),
    "awq": (AWQ_CONFIG, awq_tensors(Q4)),
    "packed": (compressed_config(4, 32, symmetric=False), packed_quantized_tensors(Q4, symmetric=False)),
    "int": (compressed_config(8, None, symmetric=True, tokens=True), int_quantized_tensors(Q8)),
    "llm_int8": (LLM_INT8_CONFIG, llm_int8_tensors(Q8.weights())),
}
OTHERS = {
    "model.layers.0.input_layernorm.weight": np.ones(64, np.float16),
    f"{MODULE}.bias": np.arange(8, dtype=np.float32),
    "lm_head.weight": np.ones((4, 64), np.float32),
}


@pytest.mark.parametrize("kind", KINDS)
def test_names_are_those_of_a_plain_checkpoint(tmp_path: Path, kind: str) -> None:
    config, parts = KINDS[kind]
    write_directory(tmp_path, config, OTHERS | {f"{MODULE}.{part}": array for part, array in parts.items()})
    for opened in (open_checkpoint, open_safetensors):
        with opened(tmp_path) as checkpoint:
            assert set(checkpoint.names()) == {*OTHERS, f"{MODULE}.weight"}
            assert len(checkpoint.names()) == len(set(checkpoint.names()))
            assert f"{MODULE}.weight" in checkpoint
            assert f"{MODULE}.qweight" not in checkpoint
            assert checkpoint.shape(f"{MODULE}.weight") == (8, 64)
            for name, array in OTHERS.items():
                np.testing.assert_array_equal(dequantize(checkpoint.tensor(name)), array)
            kept = checkpoint.tensor(f"{MODULE}.weight")
    assert dequantize(kept).shape == (8, 64)  # it stays valid
    with pytest.raises(EngineError, match="closed"):
        checkpoint.tensor(f"{MODULE}.weight")


@pytest.mark.parametrize("kind", KINDS)
def test_a_matrix_may_be_spread_over_shards(tmp_path: Path, kind: str) -> None:
    config, parts = KINDS[kind]
    (tmp_path / "config.json").write_text(json.dumps({"quantization_config": config}))
    weight_map = {}
    for index, (part, array) in enumerate(parts.items()):
        save_file({f"{MODULE}.{part}": array}, tmp_path / f"model-{index}.safetensors")
        weight_map[f"{MODULE}.{part}"] = f"model-{index}.safetensors"
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    expected = read_weight(write_module(tmp_path / "whole", config, parts))
    np.testing.assert_array_equal(read_weight(tmp_path), expected)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_scales_of_other_float_types(tmp_path: Path, dtype: str) -> None:
    """llm-compressor stores scales in the model's type."""
    config, parts = KINDS["packed"]
    exact = np.array([0.5, 1.5, 0.25, 3.0] * 4, np.float32).reshape(8, 2)
    expected = read_weight(
        write_module(tmp_path / "half", config, parts | {"weight_scale": exact.astype(np.float16)})
    )
    write_module(tmp_path, config, parts | {"weight_scale": exact})
    if dtype == "bfloat16":
        halves = (exact.view(np.uint32) >> 16).astype(np.uint16)
        write_module(tmp_path, config, parts | {"weight_scale": halves})
        path = tmp_path / "model.safetensors"  # NumPy has no bfloat16
        path.write_bytes(path.read_bytes().replace(b'"U16"', b'"BF16"').replace(b"  ", b" ", 1))
    np.testing.assert_array_equal(read_weight(tmp_path), expected)


METHODS = [
    "fp8",
    "mxfp4",
    "hqq",
    "quanto",
    "torchao",
    "aqlm",
    "eetq",
    "higgs",
    "vptq",
    "spqr",
    "bitnet",
    "auto-round",
]


@pytest.mark.parametrize(
    "method", [*METHODS, "fbgemm_fp8", "modelopt", "gguf", "quark", "nvfp4", "exl2", "new-in-2027"]
)
def test_unknown_methods_are_refused_by_name(tmp_path: Path, method: str) -> None:
    write_directory(tmp_path, {"quant_method": method, "bits": 4}, OTHERS)
    with pytest.raises(ModelFileError, match=f"'{method}' is not supported, gptq, awq, .* can be read") as caught:
        open_checkpoint(tmp_path)
    assert caught.value.field == "quantization_config.quant_method"


@pytest.mark.parametrize(
    ("config", "reason"), [(4, "object"), ([], "object"), ({}, "missing"), ({"quant_method": 1}, "string")]
)
def test_a_broken_section_is_named(tmp_path: Path, config: Any, reason: str) -> None:
    write_directory(tmp_path, config, OTHERS)
    with pytest.raises(ModelFileError, match=reason) as caught:
        open_checkpoint(tmp_path)
    assert str(caught.value.field).startswith("quantization_config")


def test_a_model_with_images_keeps_it_in_text_config(tmp_path: Path) -> None:
    config, parts = KINDS["gptq"]
    write_module(tmp_path, config, parts)
    (tmp_path / "config.json").write_text(json.dumps({"text_config": {"quantization_config": config}}))
    np.testing.assert_array_equal(read_weight(tmp_path), Q4.weights())


def test_side_files_of_older_tools(tmp_path: Path) -> None:
    config, parts = KINDS["gptq"]
    write_directory(tmp_path, None, {f"{MODULE}.{part}": array for part, array in parts.items()})
    with pytest.raises(ModelFileError, match="no quantization_config says how") as caught:
        open_checkpoint(tmp_path)
    assert caught.value.field == f"{MODULE}.qweight"
    del (config := dict(config))["quant_method"]
    (tmp_path / "quantize_config.json").write_text(json.dumps(config))
    np.testing.assert_array_equal(read_weight(tmp_path), Q4.weights())


def test_a_side_file_does_not_matter_to_plain_weights(tmp_path: Path) -> None:
    write_directory(tmp_path, None, OTHERS)
    (tmp_path / "quantize_config.json").write_text('{"bits": 3}')
    with open_checkpoint(tmp_path) as checkpoint:
        assert set(checkpoint.names()) == set(OTHERS)


def test_an_int8_tensor_of_another_kind_of_model_stays_refused(tmp_path: Path) -> None:
    write_directory(tmp_path, None, {"a.weight": np.zeros((2, 2), np.int8)})
    with open_checkpoint(tmp_path) as checkpoint, pytest.raises(ModelFileError, match="I8 cannot be a weight"):
        checkpoint.tensor("a.weight")


@pytest.mark.parametrize("kind", KINDS)
def test_parts_without_codes_are_named(tmp_path: Path, kind: str) -> None:
    config, parts = KINDS[kind]
    write_module(tmp_path, config, dict(list(parts.items())[1:]))
    with pytest.raises(ModelFileError, match="belongs to a quantised matrix") as caught:
        open_checkpoint(tmp_path)
    assert str(caught.value.field).startswith(MODULE)


@pytest.mark.parametrize("kind", ["gptq", "awq", "packed"])
def test_a_float_weight_beside_packed_ones_is_named(tmp_path: Path, kind: str) -> None:
    config, parts = KINDS[kind]
    write_module(tmp_path, config, parts | {"weight": np.ones((8, 64), np.float32)})
    with pytest.raises(ModelFileError, match="stands beside packed weights") as caught:
        open_checkpoint(tmp_path)
    assert caught.value.field == f"{MODULE}.weight"


def test_what_no_kernel_runs_is_an_error_of_the_file(tmp_path: Path) -> None:
    q = random_quantized(np.random.default_rng(SEED), 8, 48, 4, 16, symmetric=False)
    write_module(tmp_path, GPTQ_CONFIG | {"group_size": 16}, gptq_tensors(q))
    with pytest.raises(
        ModelFileError, match="48 inputs in groups of 16; only widths and groups of whole 32"
    ) as caught:
        read_weight(tmp_path)
    assert caught.value.field == f"{MODULE}.weight"
