"""AutoAWQ checkpoints of version `gemm` (Lin et al., https://arxiv.org/abs/2306.00978).

Shape letters: N outputs, K inputs, G groups. A module has qweight int32 [K, N / 8], packed along the outputs in an
interleaved order; qzeros int32 [G, N / 8] likewise; scales float16 [G, N].
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from vivace.core.errors import UnsupportedError
from vivace.formats.half_scales import half_scales
from vivace.formats.module_tensors import ModuleTensors
from vivace.formats.packed_integers import pack_columns
from vivace.formats.quantized_matrix import QuantizedMatrix
from vivace.formats.scheme_fields import SchemeFields
from vivace.formats.stored_matrix import Activations

_ORDER = [0, 2, 4, 6, 1, 3, 5, 7]  # nibble i of a word holds output _ORDER[i] of its eight
_ADVICE = "requantise with AutoAWQ's version gemm and 4 bits, or use a GPTQ, compressed-tensors or GGUF checkpoint"


@dataclass(frozen=True, slots=True)
class AWQScheme:
    """`group_size` None means one group a row; without zero points every zero is 8."""

    group_size: int | None
    has_zero_points: bool = True

    marks: ClassVar = ("qweight",)
    parts: ClassVar = ("qweight", "qzeros", "scales")

    def shape(self, tensors: ModuleTensors) -> tuple[int, int]:
        """[N, K] of the module's matrix."""
        qweight = tensors.array("qweight", ("int32",), (None, None))
        return qweight.shape[1] * 8, qweight.shape[0]

    def matrix(self, tensors: ModuleTensors) -> QuantizedMatrix:
        return unpack_awq(tensors, self)

    def activations(self, module: str) -> Activations:  # noqa: ARG002 - all modules alike
        return "group"


def read_awq_scheme(fields: SchemeFields) -> AWQScheme:
    """From a `quantization_config`. Raises ModelFileError naming what is not understood."""
    if fields.word("backend", "autoawq") == "llm-awq":  # other values name a kernel, not a layout
        raise fields.error("backend", f"the layout of llm-awq cannot be read; {_ADVICE}")
    version = fields.word("version", fields.word("checkpoint_format", fields.word("format", "gemm")))
    fields.refuse_unless("version", version, ("gemm",), _ADVICE)
    bits_key, size_key = ("w_bit", "q_group_size") if "w_bit" in fields else ("bits", "group_size")
    fields.refuse_unless(bits_key, fields.integer(bits_key, 4), (4,), _ADVICE)
    return AWQScheme(fields.group_size(size_key, 128), fields.flag("zero_point", True))


def unpack_awq(tensors: ModuleTensors, scheme: AWQScheme) -> QuantizedMatrix:
    """The module's matrix. Raises ModelFileError naming the tensor that does not fit."""
    num_outputs, num_inputs = scheme.shape(tensors)
    group_size = min(scheme.group_size or num_inputs, num_inputs)
    num_groups = -(-num_inputs // group_size)
    scales_GN = tensors.scales("scales", (num_groups, num_outputs))
    if "qzeros" in tensors or scheme.has_zero_points:
        zeros_NG = _unpack(tensors.array("qzeros", ("int32",), (num_groups, num_outputs // 8)))
    else:
        zeros_NG = np.full((num_outputs, num_groups), 8, np.uint8)
    return QuantizedMatrix(
        bits=4,
        group_size=group_size,
        codes_NK=_unpack(tensors.arrays["qweight"]),
        scales_NG=np.ascontiguousarray(scales_GN.T),
        zeros_NG=zeros_NG,
    )


def pack_awq(name: str, matrix: QuantizedMatrix) -> dict[str, NDArray[Any]]:
    """The tensors of `matrix` by their full names; `name` is the module's or its `.weight`'s.

    Scales are rounded to float16: choose them so. Raises UnsupportedError for what the format cannot hold: another
    width than 4 bits, activation order, groups that do not fill the inputs, outputs that are no multiple of 8.
    """
    num_outputs, num_inputs = matrix.shape
    if matrix.bits != 4 or matrix.group_of_K is not None:
        raise UnsupportedError(f"{name}: AWQ holds 4 bits without activation order; write GPTQ or compressed-tensors")
    if num_outputs % 8 or num_inputs % matrix.group_size:
        reason = f"AWQ needs outputs in eights and whole groups of {matrix.group_size} inputs, not {matrix.shape}"
        raise UnsupportedError(f"{name}: {reason}")
    module = name.removesuffix(".weight")
    return {
        f"{module}.qweight": _pack(matrix.codes_NK.T),
        f"{module}.qzeros": _pack(matrix.zeros_NG.T),
        f"{module}.scales": half_scales(name, matrix.scales_NG.T),
    }


def awq_config(group_size: int | None, *, modules_to_not_convert: Collection[str] = ()) -> dict[str, Any]:
    """The `quantization_config`; `group_size` None is one group a row."""
    return {
        "quant_method": "awq",
        "bits": 4,
        "group_size": -1 if group_size is None else group_size,
        "zero_point": True,
        "version": "gemm",
        "modules_to_not_convert": sorted(modules_to_not_convert) or None,
    }


def _unpack(words_RW: NDArray[Any]) -> NDArray[np.uint8]:
    """int32 [R, W] to codes [8 * W, R]: the transpose, written row by row."""
    words_WR = np.ascontiguousarray(words_RW.T, "<i4")
    codes = np.empty((8 * words_WR.shape[0], words_WR.shape[1]), np.uint8)
    for nibble, output in enumerate(_ORDER):
        codes[output::8] = words_WR >> np.int32(4 * nibble) & np.int32(15)
    return codes


def _pack(codes_RC: NDArray[np.uint8]) -> NDArray[np.int32]:
    return pack_columns(codes_RC.reshape(len(codes_RC), -1, 8)[..., _ORDER].reshape(codes_RC.shape), 4)
