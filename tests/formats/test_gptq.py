"""GPTQ: known words, files of an independent packer, ours read back, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from quantized_directory import read_weight, stored_weight, write_directory, write_module
from quantized_packers import GPTQ_CONFIG, gptq_tensors, random_quantized

from vivace.core.errors import ModelFileError, UnsupportedError
from vivace.formats.gptq import GPTQScheme, gptq_config, pack_gptq, unpack_gptq
from vivace.formats.module_tensors import ModuleTensors
from vivace.formats.quantized_matrix import QuantizedMatrix

SEED = 61


def module(arrays: dict[str, np.ndarray]) -> ModuleTensors:
    return ModuleTensors("some/model", "m", {name.rpartition(".")[2]: array for name, array in arrays.items()})


def known_arrays() -> dict[str, np.ndarray]:
    """Eight inputs, eight outputs: input k of output 0 has code k + 8 (mod 16), of output n the code n."""
    qweight = np.zeros((1, 8), np.uint32)
    qweight[0, 0] = 0x76543210 ^ 0x88888888
    qweight[0, 1:] = [0x11111111 * n for n in range(1, 8)]
    return {
        "qweight": qweight.view(np.int32),
        "qzeros": np.array([[0x77777770]], np.int32),  # less one: output 0 has zero point 1, the others 8
        "scales": np.array([[0.5] + [1.0] * 7], np.float16),
    }


@pytest.mark.parametrize(("stores_less_one", "first", "others"), [(True, 1, 8), (False, 0, 7)])
def test_known_words(stores_less_one: bool, first: int, others: int) -> None:
    scheme = GPTQScheme(bits=4, group_size=None, stores_zero_less_one=stores_less_one)
    weights = unpack_gptq(module(known_arrays()), scheme).dequantize()
    codes = [8, 9, 10, 11, 12, 13, 14, 15]
    np.testing.assert_array_equal(weights[0], [0.5 * (code - first) for code in codes])
    np.testing.assert_array_equal(weights[3], [3.0 - others] * 8)


def test_a_stored_15_of_the_first_version_is_zero_point_0() -> None:
    """As ExLlamaV2 reads it, and as AutoGPTQ means it when it subtracts one from 0."""
    arrays = known_arrays() | {"qzeros": np.array([[-1]], np.int32)}
    assert (unpack_gptq(module(arrays), GPTQScheme(bits=4, group_size=None)).zeros_NG == 0).all()


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("order", [False, True])
@pytest.mark.parametrize(
    ("bits", "group_size", "symmetric"),
    [(4, 32, False), (4, 128, True), (4, -1, False), (8, 32, True), (8, -1, True)],
)
def test_files_of_an_independent_packer(
    tmp_path: Path, bits: int, group_size: int, symmetric: bool, order: bool, version: int
) -> None:
    rng = np.random.default_rng(SEED)
    K = 256
    q = random_quantized(rng, 24, K, bits, K if group_size == -1 else group_size, symmetric=symmetric, order=order)
    config = GPTQ_CONFIG | {"bits": bits, "group_size": group_size, "sym": symmetric, "desc_act": order}
    config["checkpoint_format"] = "gptq" if version == 1 else "gptq_v2"
    write_module(tmp_path, config, gptq_tensors(q, version=version))
    np.testing.assert_array_equal(read_weight(tmp_path), q.weights())
    assert (stored_weight(tmp_path).input_order is not None) == (order and group_size != -1)


def test_without_g_idx_groups_are_runs(tmp_path: Path) -> None:
    q = random_quantized(np.random.default_rng(SEED), 8, 64, 4, 32, symmetric=False)
    write_module(tmp_path, GPTQ_CONFIG, gptq_tensors(q, g_idx=False))
    np.testing.assert_array_equal(read_weight(tmp_path), q.weights())


@pytest.mark.parametrize("checkpoint_format", ["gptq", "gptq_v2"])
@pytest.mark.parametrize(("bits", "group_size"), [(4, 32), (4, None), (8, 64), (8, None)])
def test_ours_hold_the_same_words_as_the_independent_packer(
    tmp_path: Path, bits: int, group_size: int | None, checkpoint_format: str
) -> None:
    rng = np.random.default_rng(SEED)
    order = group_size is not None
    q = random_quantized(rng, 16, 128, bits, group_size or 128, symmetric=bits == 8, order=order)
    matrix = QuantizedMatrix(
        bits,
        group_size or 128,
        q.codes,
        q.scales.astype(np.float32),
        q.zeros,
        q.groups.astype(np.int32) if order else None,
    )
    ours = pack_gptq("a.b.weight", matrix, checkpoint_format=checkpoint_format)
    theirs = gptq_tensors(q, version=1 if checkpoint_format == "gptq" else 2)
    assert {name: array.dtype for name, array in ours.items()} == {
        f"a.b.{part}": array.dtype for part, array in theirs.items()
    }
    for part, array in theirs.items():
        np.testing.assert_array_equal(ours[f"a.b.{part}"], array)
    config = gptq_config(bits, group_size, symmetric=bits == 8, desc_act=order, checkpoint_format=checkpoint_format)
    write_directory(tmp_path, config, ours)
    np.testing.assert_array_equal(read_weight(tmp_path, "a.b"), matrix.dequantize())


def test_zero_points_of_0_are_written_as_1_where_codes_allow_it() -> None:
    codes = np.arange(64, dtype=np.uint8).reshape(8, 8) % 15
    matrix = QuantizedMatrix(4, 8, codes, np.ones((8, 1), np.float32), np.zeros((8, 1), np.uint8))
    read = unpack_gptq(module(pack_gptq("m", matrix)), GPTQScheme(bits=4, group_size=8))
    assert (read.zeros_NG == 1).all()
    np.testing.assert_array_equal(read.dequantize(), matrix.dequantize())
    codes[3, 3] = 15
    with pytest.raises(UnsupportedError, match="gptq_v2"):
        pack_gptq("m", matrix)
    read = unpack_gptq(
        module(pack_gptq("m", matrix, checkpoint_format="gptq_v2")),
        GPTQScheme(bits=4, group_size=8, stores_zero_less_one=False),
    )
    np.testing.assert_array_equal(read.dequantize(), matrix.dequantize())


def test_what_cannot_be_written_is_refused() -> None:
    def matrix(bits: int, shape: tuple[int, int], scale: float = 1.0) -> QuantizedMatrix:
        middle = np.full((shape[0], 1), 1 << (bits - 1), np.uint8)
        return QuantizedMatrix(
            bits, shape[1], np.zeros(shape, np.uint8), np.full(middle.shape, scale, np.float32), middle
        )

    for wrong, word in [
        (matrix(3, (32, 32)), "4 or 8 bits"),
        (matrix(4, (12, 32)), "fill"),
        (matrix(4, (16, 36)), "fill"),
        (matrix(4, (16, 32), 1e6), "half precision"),
    ]:
        with pytest.raises(UnsupportedError, match=word):
            pack_gptq("m", wrong)


def test_rules_for_single_modules(tmp_path: Path) -> None:
    """GPTQModel's `dynamic`: the first pattern that fits counts, `-:` names modules that are stored as floats."""
    rng = np.random.default_rng(SEED)
    modules = {f"model.layers.{layer}.mlp.{part}_proj": None for layer in (0, 1, 11) for part in ("up", "down")}
    rules = {"-:lm_head": {}, r"+:.*\.1\..*up.*": {"bits": 8, "group_size": 64}, "model.layers.11": {"bits": 8}}
    tensors: dict[str, np.ndarray] = {"lm_head.weight": np.ones((4, 64), np.float32)}
    expected = {}
    for name in modules:
        bits = 8 if ".11." in name or ".1.mlp.up" in name else 4
        q = random_quantized(rng, 8, 128, bits, 64 if ".1.mlp.up" in name else 32, symmetric=True)
        expected[name] = q.weights()
        tensors |= {f"{name}.{part}": array for part, array in gptq_tensors(q).items()}
    write_directory(tmp_path, GPTQ_CONFIG | {"dynamic": rules}, tensors)
    for name, weights in expected.items():
        np.testing.assert_array_equal(read_weight(tmp_path, name), weights)
    assert read_weight(tmp_path, "lm_head").shape == (4, 64)


REFUSALS: list[tuple[dict[str, Any], str, str]] = [
    ({"bits": 3}, "bits", "4, 8"),
    ({"bits": 2}, "bits", "4, 8"),
    ({"bits": "4"}, "bits", "integer"),
    ({"bits": None}, "bits", "missing"),
    ({"group_size": None}, "group_size", "missing"),
    ({"group_size": 0}, "group_size", "above 0"),
    ({"group_size": -7}, "group_size", "above 0"),
    ({"checkpoint_format": "marlin"}, "checkpoint_format", "'marlin' is not supported"),
    ({"checkpoint_format": "bitblas"}, "checkpoint_format", "'bitblas' is not supported"),
    ({"is_marlin_format": True}, "is_marlin_format", "not supported"),
    ({"pack_dtype": "int64"}, "pack_dtype", "int64"),
    ({"rotation": "hadamard"}, "rotation", "not supported"),
    ({"dynamic": {"+:(": {"bits": 8}}}, "dynamic.key", "pattern"),
    ({"dynamic": {"x": {"bits": 3}}}, "dynamic.x.bits", "4, 8"),
    ({"dynamic": {"x": {"adapter": 1}}}, "dynamic.x.adapter", "not understood"),
    ({"dynamic": 4}, "dynamic", "object"),
]


@pytest.mark.parametrize(("change", "field", "reason"), REFUSALS, ids=lambda value: str(value)[:40])
def test_what_is_not_understood_is_named(tmp_path: Path, change: dict[str, Any], field: str, reason: str) -> None:
    q = random_quantized(np.random.default_rng(SEED), 8, 64, 4, 32, symmetric=False)
    write_module(tmp_path, GPTQ_CONFIG | change, gptq_tensors(q))
    with pytest.raises(ModelFileError, match=reason) as caught:
        read_weight(tmp_path)
    assert caught.value.field == f"quantization_config.{field}"
    assert "config.json" in str(caught.value)


def with_value(array: np.ndarray, index: Any, value: float) -> np.ndarray:
    array = array.copy()
    array[index] = value
    return array


@pytest.mark.parametrize(
    ("part", "spoil", "reason"),
    [
        ("scales", lambda a: with_value(a, (1, 3), np.nan), r"scale at \(1, 3\)"),
        ("scales", lambda a: with_value(a, (0, 0), np.inf), "finite"),
        ("scales", lambda a: a[:1], "shape"),
        ("scales", lambda a: a[:, :-1], "shape"),
        ("scales", lambda a: a.astype(np.int32), "type int32"),
        ("scales", lambda _: None, "lacks"),
        ("qzeros", lambda _: None, "lacks"),
        ("qzeros", lambda a: a[:, :0], "shape"),
        ("qzeros", lambda a: np.concatenate([a, a]), "shape"),
        ("qweight", lambda a: a[:-1], "shape|group"),
        ("qweight", lambda a: a[:, :0], "shape"),
        ("qweight", lambda a: a[0], "shape"),
        ("qweight", lambda a: a.view(np.float32), "type float32"),
        ("g_idx", lambda a: with_value(a, 5, 2), "input 5 is in group 2"),
        ("g_idx", lambda a: with_value(a, 5, -1), "input 5 is in group -1"),
        ("g_idx", lambda a: with_value(a, 5, 1), "group 0 has 31 inputs, not 32"),
        ("g_idx", lambda a: a[:-1], "shape"),
    ],
)
def test_broken_tensors_are_named(tmp_path: Path, part: str, spoil: Any, reason: str) -> None:
    q = random_quantized(np.random.default_rng(SEED), 8, 64, 4, 32, symmetric=False)
    arrays = gptq_tensors(q)
    spoiled = spoil(arrays.pop(part))
    write_module(tmp_path, GPTQ_CONFIG, arrays | ({} if spoiled is None else {part: spoiled}))
    with pytest.raises(ModelFileError, match=reason) as caught:
        read_weight(tmp_path)
    assert str(caught.value.field).startswith("model.layers.0.mlp.up_proj.")


def test_a_group_size_of_the_whole_row_is_bounded_by_it(tmp_path: Path) -> None:
    q = replace(random_quantized(np.random.default_rng(SEED), 8, 64, 4, 64, symmetric=False))
    write_module(tmp_path, GPTQ_CONFIG | {"group_size": 2**62}, gptq_tensors(q))
    np.testing.assert_array_equal(read_weight(tmp_path), q.weights())
