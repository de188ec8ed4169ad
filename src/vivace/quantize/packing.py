"""Quantised matrices as the tensors of a checkpoint, and what its config.json says about them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from vivace.core.errors import UnsupportedError
from vivace.formats.awq import awq_config, pack_awq
from vivace.formats.compressed_tensors import compressed_tensors_config, pack_compressed_tensors
from vivace.formats.compressed_tensors_scheme import WeightScheme
from vivace.formats.gptq import gptq_config, pack_gptq
from vivace.formats.quantized_matrix import QuantizedMatrix
from vivace.formats.safetensors_writer import WritableTensor
from vivace.quantize.options import INT8_METHODS, PER_ROW, QuantizeOptions

LLM_INT8_THRESHOLD = 6.0
LM_HEAD = "lm_head"


def pack(options: QuantizeOptions, name: str, matrix: QuantizedMatrix) -> dict[str, WritableTensor]:
    """The tensors that stand for the matrix `name` (with its `.weight`) in a file of the options' format."""
    if options.format == "dense":
        return {name: matrix.dequantize()}
    if options.format == "bitsandbytes":
        levels_NK = (matrix.codes_NK ^ np.uint8(128)).view(np.int8)
        largest_N = np.ascontiguousarray(matrix.scales_NG[:, 0]) * np.float32(127)
        return {name: levels_NK, f"{name.removesuffix('.weight')}.SCB": largest_N}
    if options.format == "gptq":
        return dict(pack_gptq(name, matrix, checkpoint_format=_gptq_version(options)))
    if options.format == "awq":
        return dict(pack_awq(name, matrix))
    return dict(pack_compressed_tensors(name, matrix, "token" if options.method in INT8_METHODS else "group"))


def check_shape(options: QuantizeOptions, name: str, shape: tuple[int, ...]) -> None:
    """Raises UnsupportedError where the format cannot hold a matrix of this shape: before hours of work."""
    num_outputs, num_inputs = shape
    group_size = num_inputs if options.group_size == PER_ROW else options.group_size
    way_out = "leave it float with --skip-layers"
    if options.format in ("gptq", "compressed-tensors") and options.method not in INT8_METHODS and num_inputs % 32:
        raise UnsupportedError(
            f"{name} is {num_outputs} x {num_inputs}: groups are computed in whole 32 inputs; take w8a8, or {way_out}"
        )
    if options.format == "gptq" and num_outputs * options.bits % 32:
        raise UnsupportedError(
            f"{name} is {num_outputs} x {num_inputs}: gptq files pack outputs into whole 32-bit words; give --format "
            f"compressed-tensors, or {way_out}"
        )
    if options.format == "awq" and (num_outputs % 8 or num_inputs % group_size):
        raise UnsupportedError(
            f"{name} is {num_outputs} x {num_inputs}: awq files need outputs in eights and whole groups of "
            f"{group_size} inputs; give another --group-size, --format compressed-tensors, or {way_out}"
        )


def quantization_config(
    options: QuantizeOptions, bits_of_module: Mapping[str, int | None], *, has_lm_head: bool
) -> dict[str, Any] | None:
    """`quantization_config` of config.json; None for dense files. Modules of None bits stayed float."""
    floats = [module for module, bits in bits_of_module.items() if bits is None]
    ignored = [*floats, LM_HEAD] if has_lm_head or options.format == "compressed-tensors" else floats
    group_size = None if options.group_size == PER_ROW else options.group_size
    if options.format == "gptq":
        return gptq_config(
            options.bits,
            group_size,
            symmetric=options.symmetric,
            desc_act=options.act_order,
            checkpoint_format=_gptq_version(options),
            damp_percent=options.damping,
            overrides={f"-:{module.replace('.', '[.]')}$": {} for module in floats},
        )
    if options.format == "awq":
        return awq_config(group_size, modules_to_not_convert=ignored)
    if options.format == "bitsandbytes":
        return _bitsandbytes_config(ignored)
    if options.format == "compressed-tensors":
        return compressed_tensors_config(_schemes(options, bits_of_module, group_size), ignore=ignored)
    return None


def _schemes(
    options: QuantizeOptions, bits_of_module: Mapping[str, int | None], group_size: int | None
) -> list[WeightScheme]:
    """One for each width; modules by name where there are several widths."""
    widths = sorted({bits for bits in bits_of_module.values() if bits is not None}) or [options.bits]
    schemes = []
    for bits in widths:
        named = tuple(module for module, its_bits in bits_of_module.items() if its_bits == bits)
        schemes.append(
            WeightScheme(
                bits=bits,
                group_size=group_size,
                symmetric=options.symmetric,
                activations="token" if options.method in INT8_METHODS else "group",
                targets=named if len(widths) > 1 else ("Linear",),
                has_activation_order=options.act_order,
            )
        )
    return schemes


def _gptq_version(options: QuantizeOptions) -> str:
    """The first version stores zero points less one, and readers disagree on zero points of 0."""
    return "gptq" if options.symmetric else "gptq_v2"


def _bitsandbytes_config(ignored: list[str]) -> dict[str, Any]:
    return {
        "quant_method": "bitsandbytes",
        "load_in_8bit": True,
        "load_in_4bit": False,
        "llm_int8_threshold": LLM_INT8_THRESHOLD,
        "llm_int8_skip_modules": sorted(ignored) or None,
        "llm_int8_enable_fp32_cpu_offload": False,
        "llm_int8_has_fp16_weight": False,
    }
