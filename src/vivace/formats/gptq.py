"""GPTQ checkpoints, as AutoGPTQ and GPTQModel write them (Frantar et al., https://arxiv.org/abs/2210.17323).

Shape letters: N outputs, K inputs, G groups, B bits. A module has qweight int32 [K * B / 32, N], packed along the
inputs; qzeros int32 [G, N * B / 32]; scales float16 [G, N]; g_idx int32 [K], the group of each input.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from vivace.core.errors import UnsupportedError
from vivace.formats.half_scales import half_scales
from vivace.formats.module_tensors import ModuleTensors
from vivace.formats.name_pattern import NamePattern
from vivace.formats.packed_integers import pack_columns, pack_rows, unpack_columns, unpack_rows
from vivace.formats.quantized_matrix import QuantizedMatrix
from vivace.formats.scheme_fields import SchemeFields
from vivace.formats.stored_matrix import Activations

BITS = (4, 8)
CHECKPOINT_FORMATS = ("gptq", "gptq_v2")
_ADVICE = "requantise with 4 or 8 bits and checkpoint_format gptq, or use a GGUF file"
# What changes the arithmetic and is not served; each is harmless while null, false or empty.
_UNSERVED_KEYS = ("is_marlin_format", "rotation", "adapter", "hyb_act")


@dataclass(frozen=True, slots=True, kw_only=True)
class GPTQScheme:
    """One width and group size for all modules, but for those that `rules` name: the first pattern that fits counts.

    `group_size` None means one group a row. `stores_zero_less_one` is the first version's way (`gptq`).
    """

    bits: int
    group_size: int | None
    stores_zero_less_one: bool = True
    rules: tuple[tuple[NamePattern, GPTQScheme], ...] = ()

    marks: ClassVar = ("qweight",)
    parts: ClassVar = ("qweight", "qzeros", "scales", "g_idx")

    def shape(self, tensors: ModuleTensors) -> tuple[int, int]:
        """[N, K] of the module's matrix."""
        qweight = tensors.array("qweight", ("int32",), (None, None))
        return qweight.shape[1], qweight.shape[0] * 32 // self.for_module(tensors.module).bits

    def matrix(self, tensors: ModuleTensors) -> QuantizedMatrix:
        return unpack_gptq(tensors, self)

    def activations(self, module: str) -> Activations:  # noqa: ARG002 - all modules alike
        return "group"

    def for_module(self, module: str) -> GPTQScheme:
        return next((scheme for pattern, scheme in self.rules if pattern.fits(module)), self)


def read_gptq_scheme(fields: SchemeFields) -> GPTQScheme:
    """From a `quantization_config`. Raises ModelFileError naming what is not understood."""
    for key in _UNSERVED_KEYS:
        if fields.get(key):
            raise fields.error(key, f"GPTQ with {key} is not supported; {_ADVICE}")
    layout = fields.word("checkpoint_format", fields.word("format", "gptq"))
    fields.refuse_unless("checkpoint_format", layout, CHECKPOINT_FORMATS, _ADVICE)
    fields.refuse_unless("pack_dtype", fields.word("pack_dtype", "int32"), ("int32",), _ADVICE)
    base = GPTQScheme(bits=0, group_size=None, stores_zero_less_one=layout == "gptq")
    scheme = _with_overrides(base, fields)
    overrides = fields.section("dynamic")
    return scheme if overrides is None else replace(scheme, rules=_rules(scheme, overrides))


def unpack_gptq(tensors: ModuleTensors, scheme: GPTQScheme) -> QuantizedMatrix:
    """The module's matrix. Raises ModelFileError naming the tensor that does not fit."""
    num_outputs, num_inputs = scheme.shape(tensors)
    scheme = scheme.for_module(tensors.module)
    bits = scheme.bits
    group_size = min(scheme.group_size or num_inputs, num_inputs)
    num_groups = -(-num_inputs // group_size)
    scales_GN = tensors.scales("scales", (num_groups, num_outputs))
    qzeros = tensors.array("qzeros", ("int32",), (num_groups, -(-num_outputs * bits // 32)))
    zeros_GN = unpack_columns(qzeros, bits)[:, :num_outputs]
    if scheme.stores_zero_less_one:
        # Modulo 2**B: the writers subtract one from a zero point of 0 too, and ExLlamaV2 and AutoGPTQ mask likewise.
        zeros_GN = (zeros_GN + np.uint8(1)) & np.uint8((1 << bits) - 1)
    group_of_K = tensors.group_numbers("g_idx", num_inputs, group_size) if "g_idx" in tensors else None
    return QuantizedMatrix(
        bits=bits,
        group_size=group_size,
        codes_NK=unpack_rows(tensors.arrays["qweight"], bits),
        scales_NG=np.ascontiguousarray(scales_GN.T),
        zeros_NG=np.ascontiguousarray(zeros_GN.T),
        group_of_K=group_of_K,
    )


def pack_gptq(name: str, matrix: QuantizedMatrix, *, checkpoint_format: str = "gptq") -> dict[str, NDArray[Any]]:
    """The tensors of `matrix` by their full names; `name` is the module's or its `.weight`'s.

    Scales are rounded to float16: choose them so. Raises UnsupportedError for a width or shape that GPTQ cannot hold,
    and for `gptq` (not `gptq_v2`) with zero points of 0 beside codes of 2**bits - 1: readers disagree on them.
    """
    if matrix.bits not in BITS or checkpoint_format not in CHECKPOINT_FORMATS:
        raise UnsupportedError(f"{name}: GPTQ is written with 4 or 8 bits, as {' or '.join(CHECKPOINT_FORMATS)}")
    num_outputs, num_inputs = matrix.shape
    if num_outputs * matrix.bits % 32 or num_inputs * matrix.bits % 32:
        raise UnsupportedError(f"{name}: GPTQ packs 32 bits of codes a word, {matrix.shape} does not fill them")
    codes_NK, zeros_NG = matrix.codes_NK, matrix.zeros_NG
    if checkpoint_format == "gptq":
        codes_NK, zeros_NG = _without_zero_points_of_0(name, matrix)
        zeros_NG = zeros_NG - np.uint8(1)
    module = name.removesuffix(".weight")
    return {
        f"{module}.qweight": pack_rows(codes_NK, matrix.bits),
        f"{module}.qzeros": pack_columns(np.ascontiguousarray(zeros_NG.T), matrix.bits),
        f"{module}.scales": half_scales(name, matrix.scales_NG.T),
        f"{module}.g_idx": np.ascontiguousarray(matrix.groups_K, np.int32),
    }


def gptq_config(
    bits: int,
    group_size: int | None,
    *,
    symmetric: bool = True,
    desc_act: bool = False,
    checkpoint_format: str = "gptq",
    damp_percent: float = 0.01,
    true_sequential: bool = True,
    lm_head: bool = False,
    overrides: Mapping[str, Mapping[str, Any]] | None = None,
) -> dict[str, Any]:
    """The `quantization_config`; `group_size` None is one group a row.

    `overrides` are GPTQModel's `dynamic` rules: `+:` and a pattern to other bits or group_size, `-:` and a pattern
    for modules left alone.
    """
    config: dict[str, Any] = {
        "quant_method": "gptq",
        "bits": bits,
        "group_size": -1 if group_size is None else group_size,
        "sym": symmetric,
        "desc_act": desc_act,
        "checkpoint_format": checkpoint_format,
        "damp_percent": damp_percent,
        "true_sequential": true_sequential,
        "static_groups": False,
        "lm_head": lm_head,
        "pack_dtype": "int32",
    }
    if overrides:
        config["dynamic"] = {pattern: dict(values) for pattern, values in overrides.items()}
    return config


def _with_overrides(scheme: GPTQScheme, fields: SchemeFields) -> GPTQScheme:
    bits = fields.integer("bits", scheme.bits or None)
    fields.refuse_unless("bits", bits, BITS, _ADVICE)
    group_size = fields.group_size(default=(scheme.group_size or -1) if scheme.bits else None)
    return replace(scheme, bits=bits, group_size=group_size)


def _rules(scheme: GPTQScheme, overrides: SchemeFields) -> tuple[tuple[NamePattern, GPTQScheme], ...]:
    """`+:pattern` or `pattern` changes numbers; what `-:pattern` names is stored as floats, and so tells itself."""
    known = {"bits", "group_size", "sym", "desc_act", "mse", "damp_percent", "static_groups"}
    rules = []
    for key in overrides.values:
        values = overrides.section(key) or SchemeFields({}, overrides.path, f"{overrides.where}{key}.")
        if key.startswith("-:"):
            continue
        if unknown := sorted(set(values.values) - known):
            raise values.error(unknown[0], f"this rule for single modules is not understood; {_ADVICE}")
        pattern = NamePattern.parse(key.removeprefix("+:"), overrides.path, overrides.where + "key")
        rules.append((pattern, _with_overrides(replace(scheme, rules=()), values)))
    return tuple(rules)


def _without_zero_points_of_0(name: str, matrix: QuantizedMatrix) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Codes and zeros of the same values with zeros above 0: where a zero is 0, both rise by one."""
    is_zero_NG = matrix.zeros_NG == 0
    if not is_zero_NG.any():
        return matrix.codes_NK, matrix.zeros_NG
    raise_NK = is_zero_NG[:, matrix.groups_K]
    largest = (1 << matrix.bits) - 1
    if (matrix.codes_NK[raise_NK] == largest).any():
        reason = f"a zero point of 0 beside a code of {largest}, which readers of `gptq` take differently"
        raise UnsupportedError(f"{name}: {reason}; write checkpoint_format='gptq_v2', or keep zero points above 0")
    return matrix.codes_NK + raise_NK.astype(np.uint8), matrix.zeros_NG + is_zero_NG.astype(np.uint8)
