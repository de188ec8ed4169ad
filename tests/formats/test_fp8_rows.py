"""8-bit floats: their numbers, rounding to them, and checkpoints that hold them, against torch's own type."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from quantized_directory import MODULE, read_weight, stored_weight
from quantized_packers import TOKEN_ACTIVATIONS, compressed_config

from vivace.core.errors import ModelFileError, UnsupportedError
from vivace.formats.checkpoint import open_checkpoint
from vivace.formats.dequantize import dequantize
from vivace.formats.fp8_rows import E4M3_NUMBERS, nearest_codes, quantize_fp8

torch = pytest.importorskip("torch", reason="its float8_e4m3fn is what ours is compared with")
save_file = pytest.importorskip("safetensors.torch").save_file

E4M3 = torch.float8_e4m3fn
TOKENS = TOKEN_ACTIVATIONS | {"type": "float"}
STATIC = TOKENS | {"strategy": "tensor", "dynamic": False}


def float_config(activations: dict[str, Any] | None = TOKENS, **weights: Any) -> dict[str, Any]:
    config = compressed_config(8, None, symmetric=True, type="float", **weights) | {"format": "float-quantized"}
    config["config_groups"]["group_0"]["input_activations"] = activations
    return config


def write(directory: Path, config: dict[str, Any], **parts: Any) -> Path:
    (directory / "config.json").write_text(json.dumps({"quantization_config": config}))
    save_file({f"{MODULE}.{part}": tensor for part, tensor in parts.items()}, directory / "model.safetensors")
    return directory


def random_parts(seed: int = 5) -> tuple[Any, Any]:
    """Weights [20, 96] of every size, and scales [20, 1]."""
    generator = torch.Generator().manual_seed(seed)
    size = torch.exp2(torch.randint(-12, 9, (20, 96), generator=generator).float())
    weight = (torch.randn((20, 96), generator=generator) * size).clamp(-448, 448).to(E4M3)
    return weight, torch.rand((20, 1), generator=generator) + 0.01


def test_numbers_are_those_of_torch() -> None:
    expected = torch.arange(256, dtype=torch.uint8).view(E4M3).float().numpy()
    np.testing.assert_array_equal(E4M3_NUMBERS, expected)


def test_rounding_is_that_of_torch() -> None:
    """Every number between two neighbours' thirds and halves, both signs."""
    numbers = E4M3_NUMBERS[:0x7F]
    between = np.concatenate(
        [numbers[:-1] + (numbers[1:] - numbers[:-1]) * np.float32(part) for part in (0.3, 0.5, 0.7)]
    )
    values = np.concatenate([numbers, between, -numbers, -between, [1e-30, -1e-30]]).astype(np.float32)
    np.testing.assert_array_equal(nearest_codes(values), torch.from_numpy(values).to(E4M3).view(torch.uint8).numpy())
    assert nearest_codes(np.array([1e9, -449], np.float32)).tolist() == [0x7E, 0xFE]


def test_rows_are_scaled_to_the_largest_number() -> None:
    weights = np.random.default_rng(3).standard_normal((6, 40)).astype(np.float32)
    weights[2] = 0
    stored = quantize_fp8("w", weights)
    scale = torch.from_numpy(np.abs(weights).max(axis=1, keepdims=True) / np.float32(448))
    scale[2] = 1
    expected = (torch.from_numpy(weights) / scale).to(E4M3).float() * scale
    np.testing.assert_array_equal(dequantize(stored), expected.numpy())
    with pytest.raises(UnsupportedError, match="not finite"):
        quantize_fp8("w", np.array([[np.inf]], np.float32))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_scales_by_row(tmp_path: Path, dtype: Any) -> None:
    weight, scale = random_parts()
    write(tmp_path, float_config(), weight=weight, weight_scale=scale.to(dtype))
    np.testing.assert_array_equal(read_weight(tmp_path), (weight.float() * scale.to(dtype).float()).numpy())
    assert stored_weight(tmp_path).encoding == "fp8_channel"
    with open_checkpoint(tmp_path) as checkpoint:
        assert checkpoint.holds_fp8


@pytest.mark.parametrize("activations", [TOKENS, STATIC])
def test_one_scale_and_static_activations(tmp_path: Path, activations: dict[str, Any]) -> None:
    """A static scale is left: a token's own is finer."""
    weight, scale = random_parts()
    parts = {} if activations is TOKENS else {"input_scale": torch.ones(1)}
    config = float_config(activations, strategy="tensor")
    write(tmp_path, config, weight=weight, weight_scale=scale[:1, 0].contiguous(), **parts)
    np.testing.assert_array_equal(read_weight(tmp_path), (weight.float() * scale[0, 0]).numpy())
    with open_checkpoint(tmp_path) as checkpoint:
        assert checkpoint.names() == (f"{MODULE}.weight",)


def test_weights_alone_become_16_bits(tmp_path: Path) -> None:
    """Activations that the checkpoint leaves as they are must not be rounded."""
    weight, scale = random_parts()
    write(tmp_path, float_config(None), weight=weight, weight_scale=scale)
    assert stored_weight(tmp_path).encoding == "bf16"
    np.testing.assert_array_equal(read_weight(tmp_path), (weight.float() * scale).bfloat16().float().numpy())


@pytest.mark.parametrize(
    ("config", "field", "reason"),
    [
        (float_config(strategy="block"), "weights.strategy", "'block' is not"),
        (float_config(num_bits=4), "weights.num_bits", "4 is not"),
        (float_config(TOKEN_ACTIVATIONS), "input_activations.type", "'int' is not"),
    ],
    ids=["blocks", "four bits", "int8 activations"],
)
def test_what_is_not_understood_is_named(tmp_path: Path, config: dict[str, Any], field: str, reason: str) -> None:
    weight, scale = random_parts()
    write(tmp_path, config, weight=weight, weight_scale=scale)
    with pytest.raises(ModelFileError, match=reason) as caught:
        read_weight(tmp_path)
    assert caught.value.field == f"quantization_config.config_groups.group_0.{field}"


def test_tensors_that_do_not_fit_are_named(tmp_path: Path) -> None:
    weight, scale = random_parts()
    write(tmp_path, float_config(), weight=weight, weight_scale=scale[:3])
    with pytest.raises(ModelFileError, match="shape"):
        read_weight(tmp_path)
    broken = weight.view(torch.uint8).clone()
    broken[1, 2] = 0xFF
    write(tmp_path, float_config(), weight=broken.view(E4M3), weight_scale=scale)
    with pytest.raises(ModelFileError, match="not finite"):
        read_weight(tmp_path)
