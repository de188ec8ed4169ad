"""AutoAWQ: the interleaved order on known words, files of an independent packer, ours read back, refusals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from quantized_directory import read_weight, write_directory, write_module
from quantized_packers import AWQ_CONFIG, Quantized, awq_tensors, random_quantized

from vivace.core.errors import ModelFileError, UnsupportedError
from vivace.formats.awq import AWQScheme, awq_config, pack_awq, unpack_awq
from vivace.formats.module_tensors import ModuleTensors
from vivace.formats.quantized_matrix import QuantizedMatrix

SEED = 62


def quantized_matrix(q: Quantized, group_size: int) -> QuantizedMatrix:
    return QuantizedMatrix(q.bits, group_size, q.codes, q.scales.astype(np.float32), q.zeros)


def test_known_words() -> None:
    """AutoAWQ's order: the nibbles of a word, lowest first, belong to outputs 0, 2, 4, 6, 1, 3, 5, 7."""
    arrays = {
        "qweight": np.array([[0x75316420], [0x11111111]], np.int32),
        "qzeros": np.array([[0x10000000]], np.int32),
        "scales": np.ones((1, 8), np.float16),
    }
    matrix = unpack_awq(ModuleTensors("some/model", "m", arrays), AWQScheme(group_size=None))
    assert matrix.codes_NK.tolist() == [[output, 1] for output in range(8)]
    assert matrix.zeros_NG[:, 0].tolist() == [0] * 7 + [1]


@pytest.mark.parametrize("group_size", [32, 64, 128, -1])
def test_files_of_an_independent_packer(tmp_path: Path, group_size: int) -> None:
    q = random_quantized(
        np.random.default_rng(SEED), 24, 256, 4, group_size if group_size > 0 else 256, symmetric=False
    )
    q.zeros[3, 0] = 0  # no version of AWQ shifts zero points
    write_module(tmp_path, AWQ_CONFIG | {"group_size": group_size}, awq_tensors(q))
    np.testing.assert_array_equal(read_weight(tmp_path), q.weights())


@pytest.mark.parametrize("name", ["quant_config.json", "config.json"])
def test_older_names_of_the_keys(tmp_path: Path, name: str) -> None:
    q = random_quantized(np.random.default_rng(SEED), 8, 64, 4, 32, symmetric=False)
    config = {"zero_point": True, "q_group_size": 32, "w_bit": 4, "version": "GEMM"}
    if name == "config.json":
        write_module(tmp_path, config | {"quant_method": "awq"}, awq_tensors(q))
    else:
        write_directory(tmp_path, None, {f"m.{part}": array for part, array in awq_tensors(q).items()})
        (tmp_path / name).write_text(str(config).replace("'", '"').replace("True", "true"))
    module = "m" if name != "config.json" else "model.layers.0.mlp.up_proj"
    np.testing.assert_array_equal(read_weight(tmp_path, module), q.weights())


def test_without_zero_points_the_middle_is_0(tmp_path: Path) -> None:
    q = random_quantized(np.random.default_rng(SEED), 8, 64, 4, 32, symmetric=True)
    arrays = awq_tensors(q)
    del arrays["qzeros"]
    write_module(tmp_path, AWQ_CONFIG | {"zero_point": False}, arrays)
    np.testing.assert_array_equal(read_weight(tmp_path), q.weights())


@pytest.mark.parametrize("group_size", [32, None])
def test_ours_hold_the_same_words_as_the_independent_packer(tmp_path: Path, group_size: int | None) -> None:
    q = random_quantized(np.random.default_rng(SEED), 16, 128, 4, group_size or 128, symmetric=False)
    ours = pack_awq("a.b", quantized_matrix(q, group_size or 128))
    theirs = awq_tensors(q)
    assert {name.rpartition(".")[2] for name in ours} == set(theirs)
    for part, array in theirs.items():
        assert ours[f"a.b.{part}"].dtype == array.dtype
        np.testing.assert_array_equal(ours[f"a.b.{part}"], array)
    write_directory(tmp_path, awq_config(group_size, modules_to_not_convert=["lm_head"]), ours)
    np.testing.assert_array_equal(read_weight(tmp_path, "a.b"), q.weights())


@pytest.mark.parametrize(
    ("change", "field", "reason"),
    [
        ({"version": "gemv"}, "version", "'gemv' is not supported"),
        ({"version": "gemv_fast"}, "version", "'gemv_fast' is not supported"),
        ({"version": "marlin"}, "version", "'marlin' is not supported"),
        ({"version": 3}, "version", "string"),
        ({"backend": "llm-awq"}, "backend", "llm-awq"),
        ({"bits": 8}, "bits", "8 is not supported"),
        ({"group_size": 0}, "group_size", "above 0"),
        ({"zero_point": "yes"}, "zero_point", "true or false"),
    ],
)
def test_what_is_not_understood_is_named(tmp_path: Path, change: dict[str, Any], field: str, reason: str) -> None:
    q = random_quantized(np.random.default_rng(SEED), 8, 64, 4, 32, symmetric=False)
    write_module(tmp_path, AWQ_CONFIG | change, awq_tensors(q))
    with pytest.raises(ModelFileError, match=reason) as caught:
        read_weight(tmp_path)
    assert caught.value.field == f"quantization_config.{field}"


@pytest.mark.parametrize(
    ("part", "array", "reason"),
    [
        ("qzeros", None, "lacks"),
        ("qzeros", np.zeros((3, 1), np.int32), "shape"),
        ("scales", np.full((2, 8), np.nan, np.float16), "finite"),
        ("scales", np.ones((2, 16), np.float16), "shape"),
        ("qweight", np.zeros((64, 1), np.int64), "type int64"),
    ],
)
def test_broken_tensors_are_named(tmp_path: Path, part: str, array: np.ndarray | None, reason: str) -> None:
    arrays = awq_tensors(random_quantized(np.random.default_rng(SEED), 8, 64, 4, 32, symmetric=False))
    del arrays[part]
    write_module(tmp_path, AWQ_CONFIG, arrays | ({} if array is None else {part: array}))
    with pytest.raises(ModelFileError, match=reason) as caught:
        read_weight(tmp_path)
    assert caught.value.field == f"model.layers.0.mlp.up_proj.{part}"


def test_what_cannot_be_written_is_refused() -> None:
    rng = np.random.default_rng(SEED)
    with pytest.raises(UnsupportedError, match="4 bits"):
        pack_awq("m", quantized_matrix(random_quantized(rng, 8, 64, 8, 32, symmetric=True), 32))
    with pytest.raises(UnsupportedError, match="eights"):
        pack_awq("m", quantized_matrix(random_quantized(rng, 12, 64, 4, 32, symmetric=True), 32))
    q = random_quantized(rng, 8, 64, 4, 32, symmetric=True, order=True)
    ordered = QuantizedMatrix(4, 32, q.codes, q.scales.astype(np.float32), q.zeros, q.groups.astype(np.int32))
    with pytest.raises(UnsupportedError, match="activation order"):
        pack_awq("m", ordered)
