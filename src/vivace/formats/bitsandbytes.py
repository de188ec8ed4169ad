"""bitsandbytes checkpoints of LLM.int8() (Dettmers et al., https://arxiv.org/abs/2208.07339).

A module has weight int8 [N, K] and SCB float32 [N], the largest magnitude of each row: w = weight * SCB / 127.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from vivace.formats.module_tensors import ModuleTensors
from vivace.formats.quantized_matrix import QuantizedMatrix
from vivace.formats.scheme_fields import SchemeFields
from vivace.formats.stored_matrix import Activations

THRESHOLD = 6.0
_ROW_MAJOR = 0  # of weight_format; the others are orders for tensor cores
_FOUR_BITS = "4-bit bitsandbytes (NF4, FP4) cannot be read; use the unquantised checkpoint, GPTQ, AWQ or a GGUF file"


@dataclass(frozen=True, slots=True)
class LLMInt8Scheme:
    """With outliers, activations from THRESHOLD on stay in 16 bit; without, all are int8."""

    has_outliers: bool = True

    marks: ClassVar = ("weight",)
    parts: ClassVar = ("weight", "SCB", "weight_format")

    def shape(self, tensors: ModuleTensors) -> tuple[int, int]:
        """[N, K] of the module's matrix."""
        num_outputs, num_inputs = tensors.array("weight", ("int8",), (None, None)).shape
        return num_outputs, num_inputs

    def matrix(self, tensors: ModuleTensors) -> QuantizedMatrix:
        return unpack_llm_int8(tensors)

    def activations(self, module: str) -> Activations:  # noqa: ARG002 - all modules alike
        return "outlier" if self.has_outliers else "token"


def read_llm_int8_scheme(fields: SchemeFields) -> LLMInt8Scheme:
    """From a `quantization_config`. Raises ModelFileError naming what is not understood."""
    for key in ("load_in_4bit", "_load_in_4bit"):
        if fields.flag(key, False):
            raise fields.error(key, _FOUR_BITS)
    if not fields.flag("load_in_8bit", fields.flag("_load_in_8bit", False)):
        raise fields.error("load_in_8bit", f"must be true: only LLM.int8() can be read; {_FOUR_BITS}")
    threshold = fields.number("llm_int8_threshold", THRESHOLD)
    advice = "set it to 6.0 (outliers from there stay in 16 bit) or to 0.0 (no outliers)"
    fields.refuse_unless("llm_int8_threshold", threshold, (THRESHOLD, 0.0), advice)
    return LLMInt8Scheme(has_outliers=threshold != 0)


def unpack_llm_int8(tensors: ModuleTensors) -> QuantizedMatrix:
    """The module's matrix. Raises ModelFileError naming the tensor that does not fit."""
    weight_NK = tensors.array("weight", ("int8",), (None, None))
    num_outputs, num_inputs = weight_NK.shape
    if "weight_format" in tensors:
        layout = tensors.array("weight_format", ("uint8",), ())
        if layout != _ROW_MAJOR:
            raise tensors.error("weight_format", f"{layout} is an order for tensor cores; save it with row order (0)")
    largest_N = tensors.scales("SCB", (num_outputs,))
    return QuantizedMatrix(
        bits=8,
        group_size=num_inputs,
        codes_NK=weight_NK.view(np.uint8) ^ np.uint8(128),
        scales_NG=largest_N[:, None] / np.float32(127),
        zeros_NG=np.full((num_outputs, 1), 128, np.uint8),
    )
