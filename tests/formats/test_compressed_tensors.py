"""compressed-tensors: files of an independent packer, ours read back, targets, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from quantized_directory import MODULE, read_weight, stored_weight, write_directory, write_module
from quantized_packers import (
    TOKEN_ACTIVATIONS,
    Quantized,
    compressed_config,
    int_quantized_tensors,
    packed_quantized_tensors,
    random_quantized,
)

from vivace.core.errors import ModelFileError, UnsupportedError
from vivace.formats.compressed_tensors import compressed_tensors_config, pack_compressed_tensors
from vivace.formats.compressed_tensors_scheme import WeightScheme
from vivace.formats.quantized_matrix import QuantizedMatrix

SEED = 63


def quantized_matrix(q: Quantized, *, order: bool = False) -> QuantizedMatrix:
    groups = q.groups.astype(np.int32) if order else None
    group_size = q.codes.shape[1] // q.scales.shape[1]
    return QuantizedMatrix(q.bits, group_size, q.codes, q.scales.astype(np.float32), q.zeros, groups)


def test_known_words(tmp_path: Path) -> None:
    """Codes are two's complement plus 2**(bits - 1), the first in the lowest bits; N = 1, K = 40."""
    q = Quantized(
        4, np.zeros((1, 40), np.uint8), np.full((1, 1), 0.25, np.float16), np.full((1, 1), 8), np.zeros(40, int)
    )
    parts = {
        "weight_packed": np.array([[0x76543210, 0, 0, 0, 0x0000000F]], np.int32)[:, [0, 1, 2, 3, 4]],
        "weight_scale": q.scales,
        "weight_shape": np.array([1, 40], np.int64),
    }
    write_module(tmp_path, compressed_config(4, None, symmetric=True), parts)
    with pytest.raises(ModelFileError, match="whole 32 inputs"):  # understood, but no kernel runs 40 inputs
        read_weight(tmp_path)
    parts["weight_packed"] = np.concatenate([parts["weight_packed"], np.full((1, 3), -1, np.int32)], axis=1)
    parts["weight_shape"] = np.array([1, 64], np.int64)
    write_module(tmp_path, compressed_config(4, None, symmetric=True), parts)
    weights = read_weight(tmp_path)[0]
    assert weights[:8].tolist() == [0.25 * (code - 8) for code in range(8)]
    assert (weights[32], weights[33], weights[63]) == (0.25 * 7, -2.0, 0.25 * 7)


@pytest.mark.parametrize("order", [False, True])
@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize(("bits", "group_size"), [(4, 32), (4, 128), (4, None), (8, 32), (8, None)])
def test_packed_files_of_an_independent_packer(
    tmp_path: Path, bits: int, group_size: int | None, symmetric: bool, order: bool
) -> None:
    order = order and group_size is not None
    q = random_quantized(
        np.random.default_rng(SEED), 20, 256, bits, group_size or 256, symmetric=symmetric, order=order
    )
    if bits == 8:  # int8 kernels hold a level less zero point from -128 to 127
        q.zeros[:] = np.clip(q.zeros, 100, 156)
        q.codes[:] = np.clip(q.codes, 30, 226)
    config = compressed_config(bits, group_size, symmetric=symmetric, actorder="group" if order else None)
    symmetric = symmetric and bits == 4
    config["config_groups"]["group_0"]["weights"]["symmetric"] = symmetric
    write_module(tmp_path, config, packed_quantized_tensors(q, symmetric=symmetric, g_idx=order))
    np.testing.assert_array_equal(read_weight(tmp_path), q.weights())
    assert stored_weight(tmp_path).encoding.startswith("int4_g" if bits == 4 else "q8_0")


def test_int_files_of_an_independent_packer(tmp_path: Path) -> None:
    q = random_quantized(np.random.default_rng(SEED), 20, 96, 8, 96, symmetric=True)
    write_module(tmp_path, compressed_config(8, None, symmetric=True, tokens=True), int_quantized_tensors(q))
    np.testing.assert_array_equal(read_weight(tmp_path), q.weights())
    assert stored_weight(tmp_path).encoding == "int8_channel"


def test_one_scale_for_the_whole_matrix(tmp_path: Path) -> None:
    q = random_quantized(np.random.default_rng(SEED), 20, 96, 8, 96, symmetric=True)
    q.scales[:] = q.scales[0]
    parts = int_quantized_tensors(q) | {"weight_scale": q.scales[:1, 0].astype(np.float32)}
    config = compressed_config(8, None, symmetric=True, tokens=True, strategy="tensor")
    write_module(tmp_path, config, parts)
    np.testing.assert_array_equal(read_weight(tmp_path), q.weights())


def test_older_files_keep_zero_points_as_int8(tmp_path: Path) -> None:
    q = random_quantized(np.random.default_rng(SEED), 16, 64, 4, 32, symmetric=False)
    parts = packed_quantized_tensors(q, symmetric=True)
    parts["weight_zero_point"] = (q.zeros.astype(np.int64) - 8).astype(np.int8)
    write_module(tmp_path, compressed_config(4, 32, symmetric=False), parts)
    np.testing.assert_array_equal(read_weight(tmp_path), q.weights())


@pytest.mark.parametrize(
    ("bits", "group_size", "symmetric"),
    [(4, 32, True), (4, 32, False), (4, None, False), (8, 64, True), (8, None, True)],
)
def test_ours_hold_the_same_words_as_the_independent_packer(
    tmp_path: Path, bits: int, group_size: int | None, symmetric: bool
) -> None:
    rng = np.random.default_rng(SEED)
    order = group_size is not None
    q = random_quantized(rng, 12, 128, bits, group_size or 128, symmetric=symmetric, order=order)
    ours = pack_compressed_tensors("a.b.weight", quantized_matrix(q, order=order))
    theirs = packed_quantized_tensors(q, symmetric=symmetric, g_idx=order)
    assert set(ours) == {f"a.b.{part}" for part in theirs}
    for part, array in theirs.items():
        assert ours[f"a.b.{part}"].dtype == array.dtype
        np.testing.assert_array_equal(ours[f"a.b.{part}"], array)
    scheme = WeightScheme(bits=bits, group_size=group_size, symmetric=symmetric, has_activation_order=order)
    write_directory(tmp_path, compressed_tensors_config([scheme]), ours)
    np.testing.assert_array_equal(read_weight(tmp_path, "a.b"), q.weights())


def test_our_w8a8_holds_the_same_bytes_as_the_independent_packer(tmp_path: Path) -> None:
    q = random_quantized(np.random.default_rng(SEED), 12, 128, 8, 128, symmetric=True)
    ours = pack_compressed_tensors("a.b", quantized_matrix(q), "token")
    for part, array in int_quantized_tensors(q).items():
        np.testing.assert_array_equal(ours.pop(f"a.b.{part}"), array)
    assert not ours
    config = compressed_tensors_config([WeightScheme(bits=8, group_size=None, activations="token")])
    write_directory(tmp_path, config, pack_compressed_tensors("a.b", quantized_matrix(q), "token"))
    np.testing.assert_array_equal(read_weight(tmp_path, "a.b"), q.weights())


def test_what_cannot_be_written_is_refused() -> None:
    rng = np.random.default_rng(SEED)
    for bits, group_size, symmetric in [(4, 64, True), (8, 32, True), (8, 64, False)]:
        q = random_quantized(rng, 8, 64, bits, group_size, symmetric=symmetric)
        with pytest.raises(UnsupportedError, match="symmetric 8-bit weights with one scale a row"):
            pack_compressed_tensors("m", quantized_matrix(q), "token")
    with pytest.raises(UnsupportedError, match="4 or 8 bits"):
        pack_compressed_tensors("m", quantized_matrix(random_quantized(rng, 8, 64, 3, 32, symmetric=True)))


def test_a_module_takes_its_group_by_name_then_pattern_then_class(tmp_path: Path) -> None:
    rng = np.random.default_rng(SEED)
    schemes = [
        WeightScheme(bits=4, group_size=32),
        WeightScheme(bits=8, group_size=32, targets=(r"re:.*layers\.(1|2)\d?\..*down_proj$",)),
        WeightScheme(bits=8, group_size=None, activations="token", targets=("model.layers.1.mlp.down_proj",)),
    ]
    scheme_of = {
        "model.layers.0.mlp.down_proj": schemes[0],
        "model.layers.3.mlp.down_proj": schemes[0],
        "model.layers.12.mlp.down_proj": schemes[1],
        "model.layers.1.mlp.down_proj": schemes[2],
    }
    tensors: dict[str, np.ndarray] = {"lm_head.weight": np.ones((2, 64), np.float32)}
    expected = {}
    for name, scheme in scheme_of.items():
        q = random_quantized(rng, 8, 64, scheme.bits, scheme.group_size or 64, symmetric=True)
        expected[name] = q.weights()
        tensors |= pack_compressed_tensors(name, quantized_matrix(q), scheme.activations)
    config = compressed_tensors_config(schemes)
    assert config["format"] == "mixed-precision"
    write_directory(tmp_path, config, tensors)
    for name, weights in expected.items():
        np.testing.assert_array_equal(read_weight(tmp_path, name), weights)
    assert stored_weight(tmp_path, "model.layers.1.mlp.down_proj").encoding == "int8_channel"


def changed(group: dict[str, Any] | None = None, weights: dict[str, Any] | None = None, **top: Any) -> dict[str, Any]:
    config = compressed_config(4, 32, symmetric=True)
    config["config_groups"]["group_0"] |= group or {}
    config["config_groups"]["group_0"]["weights"] |= weights or {}
    return config | top


STATIC = TOKEN_ACTIVATIONS | {"dynamic": False, "strategy": "tensor"}
FLOAT = TOKEN_ACTIVATIONS | {"type": "float"}
FORMATS = ["naive-quantized", "dense", "marlin-24", "sparse-24-bitmask", "nvfp4-pack-quantized"]


@pytest.mark.parametrize(
    ("config", "field", "reason"),
    [
        *((changed(format=name), "format", f"'{name}' is not supported") for name in FORMATS),
        (changed({"format": "float-quantized"}), "config_groups.group_0.weights.type", "'int' is not supported"),
        (changed({"input_activations": STATIC}), "config_groups.group_0.input_activations.dynamic", "calibration"),
        (changed({"input_activations": FLOAT}), "config_groups.group_0.input_activations.type", "'float' is not"),
        (changed({"output_activations": STATIC}), "config_groups.group_0.output_activations", "outputs"),
        (changed({"targets": 4}), "config_groups.group_0.targets", "list of strings"),
        (changed({"targets": ["re:(?!x)y"]}), "config_groups", "not supported"),
        (changed(weights={"num_bits": 3}), "config_groups.group_0.weights.num_bits", "3 is not supported"),
        (changed(weights={"type": "float"}), "config_groups.group_0.weights.type", "'float' is not supported"),
        (changed(weights={"strategy": "block"}), "config_groups.group_0.weights.strategy", "'block' is not"),
        (changed(weights={"strategy": "channel"}), "config_groups.group_0.weights.group_size", "does not go with"),
        (changed(weights={"actorder": "sideways"}), "config_groups.group_0.weights.actorder", "'sideways'"),
        (changed(quantization_status="frozen"), "quantization_status", "save_compressed"),
        (changed(sparsity_config={"format": "sparse-24-bitmask"}), "sparsity_config.format", "sparse-24-bitmask"),
        (changed(transform_config={"config_groups": {"R1": 1}}), "transform_config", "not supported"),
        (changed(config_groups={"W4A16": ["Linear"]}), "config_groups.W4A16", "preset"),
        (changed(config_groups={}), "config_groups", "empty"),
        (changed(config_groups=[1]), "config_groups", "object"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_what_is_not_understood_is_named(tmp_path: Path, config: dict[str, Any], field: str, reason: str) -> None:
    q = random_quantized(np.random.default_rng(SEED), 8, 64, 4, 32, symmetric=True)
    write_module(tmp_path, config, packed_quantized_tensors(q, symmetric=True))
    with pytest.raises(ModelFileError, match=reason) as caught:
        read_weight(tmp_path)
    assert caught.value.field == f"quantization_config.{field}"


def test_a_group_without_a_target_for_a_packed_module_is_named(tmp_path: Path) -> None:
    q = random_quantized(np.random.default_rng(SEED), 8, 64, 4, 32, symmetric=True)
    write_module(tmp_path, changed({"targets": ["re:.*q_proj"]}), packed_quantized_tensors(q, symmetric=True))
    with pytest.raises(ModelFileError, match="no group of config_groups targets it") as caught:
        read_weight(tmp_path)
    assert caught.value.field == f"{MODULE}.weight_packed"


@pytest.mark.parametrize(
    ("part", "array", "reason"),
    [
        ("weight_shape", np.array([8, 65]), "holds another matrix"),
        ("weight_shape", np.array([9, 64]), "holds another matrix"),
        ("weight_shape", np.array([-8, 64]), "holds another matrix"),
        ("weight_shape", np.array([8, 2**62]), "holds another matrix"),
        ("weight_shape", np.array([8, 64, 1]), "shape"),
        ("weight_shape", None, "lacks"),
        ("weight_scale", None, "lacks"),
        ("weight_scale", np.ones((8, 3), np.float16), "shape"),
        ("weight_scale", np.full((8, 2), np.nan, np.float32), "finite"),
        ("weight_scale", np.full((8, 2), 1e300), "finite"),
        ("weight_zero_point", None, "lacks"),
        ("weight_zero_point", np.full((8, 2), 9, np.int8), "outside of -8 to 7"),
        ("weight_zero_point", np.zeros((2, 2), np.int32), "shape"),
        ("weight_g_idx", np.full(64, 3, np.int32), "in group 3"),
    ],
    ids=lambda value: str(value)[:30].replace("\n", " "),
)
def test_broken_tensors_are_named(tmp_path: Path, part: str, array: np.ndarray | None, reason: str) -> None:
    q = random_quantized(np.random.default_rng(SEED), 8, 64, 4, 32, symmetric=False)
    parts = packed_quantized_tensors(q, symmetric=False)
    parts.pop(part, None)
    write_module(
        tmp_path, compressed_config(4, 32, symmetric=False), parts | ({} if array is None else {part: array})
    )
    with pytest.raises(ModelFileError, match=reason) as caught:
        read_weight(tmp_path)
    assert caught.value.field == f"{MODULE}.{part}"
