"""compressed-tensors checkpoints, as llm-compressor writes them (https://github.com/vllm-project/compressed-tensors).

Shape letters: N outputs, K inputs, G groups, B bits.
pack-quantized: weight_packed int32 [N, ceil(K * B / 32)], weight_scale [N, G], weight_shape int [2], where asymmetric
weight_zero_point int32 [ceil(N * B / 32), G], with activation order weight_g_idx int32 [K].
int-quantized: weight int8 [N, K], weight_scale [N, 1], where asymmetric weight_zero_point int8 [N, 1].
float-quantized: weight e4m3 [N, K], weight_scale [N, 1] or [1]; input_scale of static activations is not read.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from vivace.core.errors import UnsupportedError
from vivace.formats.compressed_tensors_scheme import (
    BITS,
    FORMAT_OF_ACTIVATIONS,
    SchemeGroups,
    WeightScheme,
    read_scheme_groups,
)
from vivace.formats.fp8_rows import Fp8Matrix
from vivace.formats.half_scales import half_scales
from vivace.formats.module_tensors import ModuleTensors
from vivace.formats.packed_integers import pack_columns, pack_rows, unpack_columns, unpack_rows
from vivace.formats.quantized_matrix import QuantizedMatrix
from vivace.formats.scheme_fields import SchemeFields
from vivace.formats.stored_matrix import Activations


@dataclass(frozen=True, slots=True)
class CompressedTensorsScheme:
    """Modules by the group of `config_groups` that targets them."""

    groups: SchemeGroups

    marks: ClassVar = ("weight_packed", "weight")
    parts: ClassVar = (
        *("weight_packed", "weight", "weight_scale", "weight_shape", "weight_zero_point", "weight_g_idx"),
        "input_scale",
    )

    def shape(self, tensors: ModuleTensors) -> tuple[int, int]:
        """[N, K] of the module's matrix."""
        return compressed_shape(tensors, self._group(tensors))

    def matrix(self, tensors: ModuleTensors) -> QuantizedMatrix | Fp8Matrix:
        scheme = self._group(tensors)
        return unpack_floats(tensors, scheme) if scheme.is_float else unpack_compressed_tensors(tensors, scheme)

    def activations(self, module: str) -> Activations:
        scheme = self.groups.for_module(module)
        return "group" if scheme is None else scheme.activations

    def _group(self, tensors: ModuleTensors) -> WeightScheme:
        scheme = self.groups.for_module(tensors.module)
        if scheme is None:
            part = "weight_packed" if "weight_packed" in tensors else "weight"
            raise tensors.error(part, "is quantised, but no group of config_groups targets it")
        return scheme


def read_compressed_tensors_scheme(fields: SchemeFields) -> CompressedTensorsScheme:
    """From a `quantization_config`. Raises ModelFileError naming what is not understood."""
    return CompressedTensorsScheme(read_scheme_groups(fields))


def unpack_compressed_tensors(tensors: ModuleTensors, scheme: WeightScheme) -> QuantizedMatrix:
    """The module's matrix. Raises ModelFileError naming the tensor that does not fit."""
    bits = scheme.bits
    num_outputs, num_inputs = compressed_shape(tensors, scheme)
    if scheme.is_packed:
        codes_NK = unpack_columns(tensors.arrays["weight_packed"], bits)[:, :num_inputs]
    else:
        codes_NK = _codes(tensors, "weight", tensors.arrays["weight"], bits)
    group_size = min(scheme.group_size or num_inputs, num_inputs)
    num_groups = -(-num_inputs // group_size)
    group_of_K = None
    if "weight_g_idx" in tensors:
        group_of_K = tensors.group_numbers("weight_g_idx", num_inputs, group_size)
    return QuantizedMatrix(
        bits=bits,
        group_size=group_size,
        codes_NK=np.ascontiguousarray(codes_NK),
        scales_NG=_scales(tensors, scheme, num_outputs, num_groups),
        zeros_NG=_zeros(tensors, scheme, num_outputs, num_groups),
        group_of_K=group_of_K,
    )


def unpack_floats(tensors: ModuleTensors, scheme: WeightScheme) -> Fp8Matrix:
    """The module's matrix of e4m3 numbers. Raises ModelFileError naming the tensor that does not fit."""
    num_outputs, _ = compressed_shape(tensors, scheme)
    codes_NK = tensors.arrays["weight"]
    if (codes_NK & 0x7F == 0x7F).any():
        raise tensors.error("weight", "holds numbers that are not finite")
    return Fp8Matrix(codes_NK, _scales(tensors, scheme, num_outputs, 1)[:, 0])


def compressed_shape(tensors: ModuleTensors, scheme: WeightScheme) -> tuple[int, int]:
    """[N, K] of the module's matrix, checked against the tensor that holds its codes."""
    if not scheme.is_packed:
        kind = "uint8" if scheme.is_float else "int8"  # of e4m3 numbers the bits
        num_outputs, num_inputs = tensors.array("weight", (kind,), (None, None)).shape
        return num_outputs, num_inputs
    packed = tensors.array("weight_packed", ("int32",), (None, None))
    claimed = tensors.array("weight_shape", ("int64", "int32"), (2,)).tolist()
    codes_a_word = 32 // scheme.bits
    if claimed[0] != packed.shape[0] or -(-claimed[1] // codes_a_word) != packed.shape[1]:
        reason = f"says {claimed}; weight_packed {packed.shape} of {scheme.bits} bits holds another matrix"
        raise tensors.error("weight_shape", reason)
    return claimed[0], claimed[1]


def pack_compressed_tensors(
    name: str, matrix: QuantizedMatrix, activations: Literal["group", "token"] = "group"
) -> dict[str, NDArray[Any]]:
    """The tensors of `matrix` by their full names; `name` is the module's or its `.weight`'s.

    `group` writes pack-quantized, whose scales are rounded to float16: choose them so. `token` writes int-quantized
    with float32 scales, for 8 bits and one scale a row. Raises UnsupportedError for what the formats cannot hold.
    """
    if matrix.bits not in BITS:
        raise UnsupportedError(f"{name}: compressed-tensors is written with 4 or 8 bits, not {matrix.bits}")
    module = name.removesuffix(".weight")
    if activations == "token":
        return _pack_for_tokens(name, module, matrix)
    tensors: dict[str, NDArray[Any]] = {
        f"{module}.weight_packed": pack_columns(matrix.codes_NK, matrix.bits),
        f"{module}.weight_scale": half_scales(name, matrix.scales_NG),
        f"{module}.weight_shape": np.array(matrix.shape, np.int64),
    }
    if not matrix.is_symmetric:
        tensors[f"{module}.weight_zero_point"] = pack_rows(np.ascontiguousarray(matrix.zeros_NG.T), matrix.bits)
    if matrix.group_of_K is not None:
        tensors[f"{module}.weight_g_idx"] = matrix.group_of_K.astype(np.int32)
    return tensors


def compressed_tensors_config(
    schemes: Sequence[WeightScheme], *, ignore: Collection[str] = ("lm_head",)
) -> dict[str, Any]:
    """The `quantization_config`. Each scheme's targets are module names, `re:` patterns or the class `Linear`."""
    formats = {FORMAT_OF_ACTIVATIONS[scheme.activations] for scheme in schemes}
    return {
        "quant_method": "compressed-tensors",
        "format": formats.pop() if len(formats) == 1 else "mixed-precision",
        "quantization_status": "compressed",
        "global_compression_ratio": None,
        "kv_cache_scheme": None,
        "ignore": sorted(ignore),
        "config_groups": {f"group_{index}": scheme.to_config() for index, scheme in enumerate(schemes)},
    }


def _pack_for_tokens(name: str, module: str, matrix: QuantizedMatrix) -> dict[str, NDArray[Any]]:
    if matrix.bits != 8 or matrix.scales_NG.shape[1] != 1 or not matrix.is_symmetric:
        reason = "int8 activations for each token need symmetric 8-bit weights with one scale a row"
        raise UnsupportedError(f"{name}: {reason}; this matrix has {matrix.bits} bits, groups of {matrix.group_size}")
    return {
        f"{module}.weight": (matrix.codes_NK ^ np.uint8(128)).view(np.int8),
        f"{module}.weight_scale": np.ascontiguousarray(matrix.scales_NG, np.float32),
    }


def _codes(tensors: ModuleTensors, part: str, levels: NDArray[Any], bits: int) -> NDArray[np.uint8]:
    """Signed levels as codes from 0."""
    offset = 1 << (bits - 1)
    if levels.min() < -offset or levels.max() >= offset:
        raise tensors.error(part, f"holds numbers outside of {-offset} to {offset - 1}")
    return levels.view(np.uint8) + np.uint8(offset)  # int8's wrap-around is that of uint8


def _scales(tensors: ModuleTensors, scheme: WeightScheme, num_outputs: int, num_groups: int) -> NDArray[np.float32]:
    shape = tensors.arrays["weight_scale"].shape if "weight_scale" in tensors else ()
    if not scheme.is_one_scale:
        scales = tensors.scales("weight_scale", (num_outputs, num_groups) if len(shape) != 1 else (num_outputs,))
    else:
        scales = tensors.scales("weight_scale", (1,) if shape else ())
    return np.ascontiguousarray(np.broadcast_to(scales.reshape(-1, num_groups), (num_outputs, num_groups)))


def _zeros(tensors: ModuleTensors, scheme: WeightScheme, num_outputs: int, num_groups: int) -> NDArray[np.uint8]:
    shape, part, bits = (num_outputs, num_groups), "weight_zero_point", scheme.bits
    if part not in tensors:
        if not scheme.symmetric:
            raise tensors.error(part, "an asymmetric matrix needs this tensor, which the checkpoint lacks")
        return np.full(shape, 1 << (bits - 1), np.uint8)
    if tensors.arrays[part].dtype == np.int32:
        packed = tensors.array(part, ("int32",), (-(-num_outputs * bits // 32), num_groups))
        return np.ascontiguousarray(unpack_rows(packed, bits)[:, :num_outputs].T)
    levels = tensors.array(part, ("int8",), (1,) if scheme.is_one_scale else shape)
    return np.ascontiguousarray(np.broadcast_to(_codes(tensors, part, levels, bits), shape))
