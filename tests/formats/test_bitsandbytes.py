"""LLM.int8() checkpoints: values, the thresholds that are served, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from quantized_directory import MODULE, read_weight, stored_weight, write_module
from quantized_packers import LLM_INT8_CONFIG, llm_int8_tensors

from vivace.core.errors import ModelFileError

SEED = 64
WEIGHTS = np.random.default_rng(SEED).standard_normal((12, 64)).astype(np.float32)


@pytest.mark.parametrize(
    ("change", "encoding"),
    [({}, "int8_outlier"), ({"llm_int8_threshold": 0.0}, "int8_channel"), ({"quant_method": None}, "int8_outlier")],
)
def test_files_of_an_independent_packer(tmp_path: Path, change: dict[str, Any], encoding: str) -> None:
    parts = llm_int8_tensors(WEIGHTS)
    write_module(tmp_path, LLM_INT8_CONFIG | change, parts)
    assert stored_weight(tmp_path).encoding == encoding
    expected = parts["weight"].astype(np.float64) * parts["SCB"].astype(np.float64)[:, None] / 127
    np.testing.assert_allclose(read_weight(tmp_path), expected, rtol=3e-7)
    assert np.abs(read_weight(tmp_path) - WEIGHTS).max() <= parts["SCB"].max() / 127 / 2 * 1.001


@pytest.mark.parametrize(
    ("change", "field", "reason"),
    [
        ({"load_in_8bit": False, "load_in_4bit": True}, "load_in_4bit", "NF4"),
        ({"load_in_8bit": None, "_load_in_8bit": None}, "load_in_8bit", "must be true"),
        ({"llm_int8_threshold": 5.0}, "llm_int8_threshold", "5.0 is not supported"),
        ({"llm_int8_threshold": "six"}, "llm_int8_threshold", "number"),
    ],
)
def test_what_is_not_understood_is_named(tmp_path: Path, change: dict[str, Any], field: str, reason: str) -> None:
    write_module(tmp_path, LLM_INT8_CONFIG | change, llm_int8_tensors(WEIGHTS))
    with pytest.raises(ModelFileError, match=reason) as caught:
        read_weight(tmp_path)
    assert caught.value.field == f"quantization_config.{field}"


@pytest.mark.parametrize(
    ("part", "array", "reason"),
    [
        ("SCB", None, "lacks"),
        ("SCB", np.ones(11, np.float32), "shape"),
        ("SCB", np.full(12, np.inf, np.float32), "finite"),
        ("weight_format", np.array(2, np.uint8), "tensor cores"),
        ("weight_format", np.zeros(3, np.uint8), "shape"),
        ("weight", np.zeros(12, np.int8), "shape"),
    ],
)
def test_broken_tensors_are_named(tmp_path: Path, part: str, array: np.ndarray | None, reason: str) -> None:
    parts = llm_int8_tensors(WEIGHTS)
    del parts[part]
    write_module(tmp_path, LLM_INT8_CONFIG, parts | ({} if array is None else {part: array}))
    with pytest.raises(ModelFileError, match=reason) as caught:
        read_weight(tmp_path)
    assert caught.value.field == f"{MODULE}.{part}"
