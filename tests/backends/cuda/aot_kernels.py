"""Compiles every kernel for named targets, without a device; a child process, because the interpreter compiles none.

Prints a JSON line a kernel and target: registers, bytes spilled, bytes of PTX and cubin, seconds; or the error.
`--targets 80,90` chooses.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.backends.nvidia.compiler import get_ptxas
from triton.compiler import ASTSource
from triton.errors import TritonError

from vivace.backends.cuda.code_layout import LAYOUTS
from vivace.backends.cuda.kernels import (
    attention,
    attention_kernel,
    attention_merge,
    coded_gate,
    coded_norm,
    coded_product,
    fp8_product,
    gated_activation,
    int8_product,
    kv_write,
    nibble_product,
    rms_norm,
    rope,
    sampling,
    split,
    token_codes,
    top_tokens,
)
from vivace.backends.cuda.kernels.attention_shape import AttentionShape
from vivace.backends.cuda.kernels.attention_tiles import LEAST_SHARED_BYTES, WIDE_SHARED_BYTES, whole_tile
from vivace.backends.cuda.kernels.paged_plane import (
    PagedPlane,
    RecentBlocks,
    channel_plane,
    float_plane,
    fp8_plane,
    int4_plane,
    int8_plane,
)
from vivace.backends.cuda.kernels.ragged_rows import PART
from vivace.backends.cuda.kernels.succession import OVERLAPPING_CAPABILITY
from vivace.backends.cuda.token_codes import TOKEN_ENCODINGS

SIXTEENS = ("num_inputs", "num_outputs", "num_padded")
OPTIONS = ("num_warps", "num_stages", "enable_fp_fusion")


@dataclass
class Variant:
    """A kernel with the types of its pointers; other arguments are 32-bit integers unless `floats` names them."""

    name: str
    kernel: triton.JITFunction
    pointers: dict[str, str]
    constants: dict[str, object]
    floats: tuple[str, ...] = ()
    tuples: tuple[str, ...] = ()
    options: dict[str, object] = field(default_factory=dict)

    def source(self) -> ASTSource:
        names = self.kernel.arg_names
        signature = {name: self._type(name) for name in names}
        constants = {(names.index(name),): value for name, value in self.constants.items()}
        return ASTSource(self.kernel, signature, constants, self._sixteens())

    def _sixteens(self) -> dict[tuple[int, ...], list[list[object]]]:
        """Pointers and strides are multiples of 16, as the launcher finds them to be for real shapes."""
        paths: list[tuple[int, ...]] = []
        for index, name in enumerate(self.kernel.arg_names):
            if name in self.tuples:
                paths += [(index, part) for part in range(3)]
            elif name in self.pointers or name.endswith("stride") or name in SIXTEENS:
                paths.append((index,))
        return {path: [["tt.divisibility", 16]] for path in paths}

    def _type(self, name: str) -> object:
        if name in self.constants:
            return "constexpr"
        if name in self.tuples:
            return ("i32", "i32", "i32")
        return self.pointers.get(name, "fp32" if name in self.floats else "i32")


def planes(shape: AttentionShape) -> dict[str, PagedPlane]:
    size = (1, 16, shape.num_kv_heads)
    bytes_of = torch.zeros((*size, shape.head_dim), dtype=torch.uint8)
    return {
        "bf16": float_plane(bytes_of.bfloat16()),
        "int8": int8_plane(bytes_of, torch.zeros((*size, 2))),
        "fp8": fp8_plane(bytes_of, torch.zeros((*size, 1)), is_native=False),
        "fp8 native": fp8_plane(bytes_of, torch.zeros((*size, 1)), is_native=True),
        "int4": int4_plane(
            torch.zeros((*size, shape.head_dim // 32, 16), dtype=torch.uint8), torch.zeros((*size, 4, 2))
        ),
    }


def channel_keys(shape: AttentionShape) -> PagedPlane:
    codes = torch.zeros((1, shape.num_kv_heads, shape.head_dim, 8), dtype=torch.uint8)
    recent = RecentBlocks(torch.zeros((1, 16, shape.num_kv_heads, shape.head_dim)), torch.zeros(1, dtype=torch.int64))
    return channel_plane(codes, torch.zeros((1, shape.num_kv_heads, shape.head_dim, 2)), recent)


def attention_variants() -> Iterator[Variant]:
    """Heads of 128 dimensions in every cache type; 64, 256 and 512 in 16 bits. Decoding, guesses, prompts."""
    for dim in (64, 128, 256, 512):
        shape = AttentionShape(32, 8, dim, 0.09)
        for name, plane in planes(shape).items():
            if dim == 128 or name == "bf16":
                rows = {"decode": 1, "guesses": max(4, whole_tile(dim) // 8), "prefill": max(4, whole_tile(dim) // 4)}
                for kind, count in rows.items():
                    yield attend_variant(f"attention {kind} {name} {dim}", shape, plane, count, kind != "prefill")
    plane = planes(AttentionShape(32, 8, 128, 0.09))["bf16"]
    shape = AttentionShape(32, 8, 128, 0.09, window=1024, softcap=50.0)
    yield attend_variant("attention prefill bf16 window and cap", shape, plane, 32, False)
    yield attend_variant("attention tree bf16", AttentionShape(32, 8, 128, 0.09), plane, 1, True, has_paths=True)
    plane, shape = planes(shape)["int4"], AttentionShape(32, 8, 128, 0.09)
    for kind, rows in (("decode", 1), ("prefill", 32)):
        name = f"attention {kind} int4 keys by channel"
        yield attend_variant(name, shape, plane, rows, kind == "decode", by_channel=True)
    pointers = dict.fromkeys(("query_starts", "context_lens", "sequences", "first_rows", "part_starts"), "*i32")
    pointers |= {"partial": "*fp32", "statistics": "*fp32", "out": "*bf16"}
    constants = {"HEADS": 4, "KV_HEADS": 8, "ROWS": 1, "HEAD_DIM": 128, "DIM": 128, "PART": PART}
    constants |= {"HAS_WINDOW": False, "TOGETHER": attention_merge.TOGETHER}
    yield Variant("attention merge", attention_merge.merge_parts, pointers, constants, options={"num_warps": 8})


def wide_attention_variants() -> Iterator[Variant]:
    """As a device with much shared memory runs heads of 128 dimensions."""
    plain, capped = AttentionShape(32, 8, 128, 0.09), AttentionShape(32, 8, 128, 0.09, window=1024, softcap=50.0)
    of, more = planes(plain), {"shared_bytes": WIDE_SHARED_BYTES}
    for kind, plane in of.items():
        yield attend_variant(f"attention decode {kind} wide", plain, plane, 1, True, **more)
    name = "attention decode int4 keys by channel wide"
    yield attend_variant(name, plain, of["int4"], 1, True, by_channel=True, **more)
    yield attend_variant("attention tree bf16 wide", plain, of["bf16"], 1, True, has_paths=True, **more)
    yield attend_variant("attention prefill bf16 wide", plain, of["bf16"], 32, False, **more)
    yield attend_variant("attention prefill bf16 wide window and cap", capped, of["bf16"], 32, False, **more)


def attend_variant(
    name: str,
    shape: AttentionShape,
    plane: PagedPlane,
    rows: int,
    is_split: bool,
    *,
    has_paths: bool = False,
    by_channel: bool = False,
    shared_bytes: int = LEAST_SHARED_BYTES,
) -> Variant:
    part = PART if is_split else 0
    keys = channel_keys(shape) if by_channel else plane
    constants = attention.constants(
        shape, keys, plane, rows, part, torch.bfloat16, has_paths=has_paths, shared_bytes=shared_bytes
    )
    options = {key: constants.pop(key) for key in OPTIONS if key in constants}
    code = "*bf16" if plane.kind == "float" else "*u8"
    pointers = dict.fromkeys(("q", "out", "key_ranges", "value_ranges"), "*bf16")
    pointers |= {"recent": "*fp16", "recent_rows": "*i64"}
    pointers |= dict.fromkeys(("partial", "statistics"), "*fp32") | dict.fromkeys(("keys", "values"), code)
    integers = ("query_starts", "context_lens", "tables", "sequences", "first_rows", "part_starts", "part_tiles")
    pointers |= dict.fromkeys((*integers, "path_firsts", "path_slots"), "*i32")
    strides = ("key_strides", "key_range_strides", "recent_strides", "value_strides", "value_range_strides")
    return Variant(name, attention_kernel.attend_tile, pointers, constants, ("scale", "cap"), strides, options)


def row_variants() -> Iterator[Variant]:
    pointers = dict.fromkeys(("x", "residual", "total", "out", "gate_up", "ranges"), "*bf16")
    pointers |= dict.fromkeys(("weight", "table"), "*fp32") | {"slots": "*i32", "codes": "*u8"}
    constants = {"ACTIVATION": "silu", "COLUMNS": 1024}
    yield Variant("gated_activation", gated_activation.gate, pointers, constants, options=gated_activation.OPTIONS)
    yield from coded_gate_variants()
    constants = {"HEAD_DIM": 128, "DIM": 128, "PAIRS": 64}
    yield Variant("rope", rope.rotate, pointers, constants, options={"num_warps": 1})
    pointers |= dict.fromkeys(("q", "k", "v", "key_ranges", "value_ranges"), "*bf16")
    strides = ("key_strides", "key_range_strides", "value_strides", "value_range_strides")
    for kind in ("float", "int8", "int4", "fp8"):
        pointers |= dict.fromkeys(("key_codes", "value_codes"), "*bf16" if kind == "float" else "*u8")
        constants = {"HEAD_DIM": 128, "DIM": 128, "BLOCK_SIZE": 16, "KIND": kind, "PAIRS": 64}
        constants |= {"QUERY_HEADS": 32, "KV_HEADS": 8}
        options = {"num_warps": 1, "enable_fp_fusion": False}
        yield Variant(f"rope_write {kind}", kv_write.write_slots, dict(pointers), constants, (), strides, options)


def coded_gate_variants() -> Iterator[Variant]:
    """Rows of 14336 in every encoding, and the longest."""
    pointers = dict.fromkeys(("gate_up", "out"), "*bf16") | {"outliers": "*u8", "scales": "*fp32"}
    cases = [(14336, encoding) for encoding in TOKEN_ENCODINGS] + [(28672, "int8_outlier")]
    for width, encoding in cases:
        is_float, columns = encoding == "fp8_channel", triton.next_power_of_2(width)
        constants: dict[str, object] = {"WIDTH": width, "COLUMNS": columns, "STEP": 128, "ACTIVATION": "silu"}
        constants |= {"KEEPS_OUTLIERS": encoding == "int8_outlier", "IS_FLOAT": is_float}
        coded, options = pointers | {"codes": "*u8" if is_float else "*i8"}, coded_gate.row_options(columns)
        name = f"coded gated_activation {width} {encoding}"
        yield Variant(name, coded_gate.gate_and_code, coded, constants, options=options)


def norm_variants() -> Iterator[Variant]:
    """Rows of 4096, as many as a power of two has and not, in 32 bits; every encoding."""
    yield from norms_of("bf16", 4096, TOKEN_ENCODINGS)
    yield from norms_of("bf16", 5120, ("int8_channel",))
    yield from norms_of("fp32", 2048, ("fp8_channel",))


def norms_of(values: str, width: int, encodings: tuple[str, ...]) -> Iterator[Variant]:
    columns = triton.next_power_of_2(width)
    pointers = dict.fromkeys(("x", "residual", "total", "out"), f"*{values}") | {"outliers": "*u8"}
    pointers |= dict.fromkeys(("weight", "scales"), "*fp32")
    constants: dict[str, object] = {"WIDTH": width, "COLUMNS": columns, "HAS_RESIDUAL": True}
    options, name = rms_norm.row_options(columns), f"rms_norm {values} {width}"
    yield Variant(name, rms_norm.normalize, pointers, constants, ("eps",), options=options)
    for encoding in encodings:
        is_float = encoding == "fp8_channel"
        more = {"STEP": 128, "KEEPS_OUTLIERS": encoding == "int8_outlier", "IS_FLOAT": is_float}
        coded, kernel = pointers | {"codes": "*u8" if is_float else "*i8"}, coded_norm.normalize_and_code
        yield Variant(f"coded {name} {encoding}", kernel, coded, constants | more, ("eps",), options=options)


def product_variants() -> Iterator[Variant]:
    """Tiles of 1, 16, 64 and many rows, as `tiling_of` chooses them."""
    for encoding in ("int4_g32", "int4_g128", "q4_0", "q8_0", "q4_k", "q5_k", "q6_k"):
        for num_rows in (1, 16, 64, 4096):
            yield coded_variant(encoding, num_rows)
    yield coded_variant("q4_k", 64, torch.float32)
    yield from int8_variants()
    yield from fp8_variants()
    pointers = {"parts": "*fp32", "bias": "*fp32", "out": "*bf16"}
    constants: dict[str, object] = {"HAS_BIAS": True, "PARTS": 8, "COLUMNS": 512}
    yield Variant("sum of parts", split.add_parts, pointers, constants)


def coded_variant(encoding: str, num_rows: int, values: torch.dtype = torch.bfloat16) -> Variant:
    layout = LAYOUTS[encoding]
    tiling = coded_product.tiling_of(num_rows, layout.step, layout.plane, is_wide=values == torch.float32)
    is_packed = coded_product.is_packed(encoding, num_rows, values)
    kernel = nibble_product.multiply_nibbles if is_packed else coded_product.multiply_codes
    pointers = {"x": "*bf16" if values == torch.bfloat16 else "*fp32", "words": "*i16", "headers": "*i32"}
    pointers |= {"high": "*u8" if layout.high_bits == 1 else "*i16", "out": "*bf16", "bias": "*fp32"}
    constants = coded_product.constants_of(layout, tiling, has_bias=False, is_whole=True)
    options: dict[str, object] = {"num_warps": tiling.warps, "num_stages": tiling.stages}
    name = f"{encoding} product {num_rows} rows {values}".replace(" torch.bfloat16", "").replace("torch.", "")
    return Variant(name, kernel, pointers, constants, options=options)


def int8_variants() -> Iterator[Variant]:
    pointers = dict.fromkeys(("x_codes", "codes"), "*i8") | dict.fromkeys(("x_scales", "scales", "bias"), "*fp32")
    pointers |= {"x": "*bf16", "outliers": "*u8", "out": "*bf16"}
    for keeps_outliers in (False, True):
        for num_rows in (1, 64, 4096):
            tiling = int8_product.tiling_of(num_rows, keeps_outliers=keeps_outliers)
            constants: dict[str, object] = {"KEEPS_OUTLIERS": keeps_outliers, "HAS_BIAS": False, "STEP": 128}
            constants |= {"OUTPUTS": tiling.outputs, "ROWS": tiling.rows}
            options: dict[str, object] = {"num_warps": tiling.warps, "num_stages": tiling.stages}
            name = f"{'int8 and outliers' if keeps_outliers else 'int8'} product {num_rows} rows"
            yield Variant(name, int8_product.multiply_int8, pointers, constants, options=options)
    pointers = {"x": "*bf16", "codes": "*i8", "scales": "*fp32", "outliers": "*u8"}
    constants = {"WIDTH": 4096, "COLUMNS": 4096, "STEP": 128, "KEEPS_OUTLIERS": True, "IS_FLOAT": False}
    options = {"num_warps": 8, "enable_fp_fusion": False}
    yield Variant("token codes", token_codes.code_tokens, pointers, constants, options=options)


def fp8_variants() -> Iterator[Variant]:
    """On tensor cores that take 8-bit floats, and decoded to 16 bits."""
    pointers = dict.fromkeys(("x_codes", "codes"), "*u8") | dict.fromkeys(("x_scales", "scales", "bias"), "*fp32")
    for is_native in (True, False):
        for num_rows in (1, 64, 4096):
            tiling = fp8_product.tiling_of(num_rows, is_native=is_native)
            constants: dict[str, object] = {"IS_NATIVE": is_native, "HAS_BIAS": False, "STEP": 128}
            constants |= {"OUTPUTS": tiling.outputs, "ROWS": tiling.rows}
            options: dict[str, object] = {"num_warps": tiling.warps, "num_stages": tiling.stages}
            name = f"{'fp8' if is_native else 'decoded fp8'} product {num_rows} rows"
            yield Variant(name, fp8_product.multiply_fp8, pointers | {"out": "*bf16"}, constants, options=options)


def sampling_variants() -> Iterator[Variant]:
    options: dict[str, object] = {"num_warps": sampling.NUM_WARPS}
    constants: dict[str, object] = {"TILE": sampling.TILE}
    pointers = dict.fromkeys(("logits", "temperatures", "top_ps", "min_ps", "uniforms"), "*fp32")
    pointers |= {"tokens": "*i32", "top_ks": "*i32", "table": "*i32"}
    yield Variant("sampling", sampling.draw_row, pointers, constants, options=options)
    yield Variant("top tokens", top_tokens.rank_row, pointers, constants, options=options)


def variants() -> Iterator[Variant]:
    yield from attention_variants()
    yield from wide_attention_variants()
    yield from norm_variants()
    yield from row_variants()
    yield from product_variants()
    yield from sampling_variants()


def attempted(variant: Variant, capability: int) -> dict[str, object]:
    """The others are compiled although this one fails: what a version of Triton cannot do is seen in one run."""
    try:
        return compiled(variant, capability)
    except (TritonError, RuntimeError, AttributeError, subprocess.CalledProcessError) as error:
        return {
            "kernel": variant.name,
            "target": f"sm_{capability}",
            "error": f"{type(error).__name__}: {error}"[:600],
        }


def compiled(variant: Variant, capability: int) -> dict[str, object]:
    overlap = {"launch_pdl": True} if (capability // 10, capability % 10) >= OVERLAPPING_CAPABILITY else {}
    started = time.perf_counter()
    result = triton.compile(variant.source(), GPUTarget("cuda", capability, 32), variant.options | overlap)
    compile_s = time.perf_counter() - started
    registers, spilled = usage(result.asm["ptx"], capability)
    return {
        "kernel": variant.name,
        "target": f"sm_{capability}",
        "registers": registers,
        "spilled_bytes": spilled,
        "shared_bytes": result.metadata.shared,
        "ptx_bytes": len(result.asm["ptx"]),
        "cubin_bytes": len(result.asm["cubin"]),
        "compile_s": round(compile_s, 2),
        "float_sums": float_sums(result.asm["ttgir"]),
        "waits_first": waits_first(result.asm["ptx"]),
        "fused_products": len(re.findall(r"\bfma\.rn\.f32", result.asm["ptx"])),
    }


def waits_first(ptx: str) -> bool:
    """Whether a kernel waits for its predecessor before it reads or writes any of the device's memory."""
    accesses = re.search(r"\b(ld\.global|st\.global|cp\.async|cp\.reduce|atom\.|red\.)", ptx)
    return "griddepcontrol.wait" in ptx[: accesses.start() if accesses else None]


def float_sums(intermediate: str) -> list[str]:
    """How the operands of float32 sums are spread over threads, which is the order in which they are summed."""
    layouts = dict(re.findall(r"^(#\w+) = (#ttg\..*)$", intermediate, re.MULTILINE))
    sums = re.findall(r'"tt\.reduce".*?arith\.(\w+).*?\}\) : \(tensor<(\w+), (#\w+)>\)', intermediate, re.DOTALL)
    return [f"{shape} {layouts[layout]}" for operation, shape, layout in sums if operation == "addf"]


def usage(ptx: str, capability: int) -> tuple[int, int]:
    """Registers a thread, and bytes spilled by its stores and loads, as ptxas says."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "kernel.ptx"
        path.write_text(ptx)
        arch = f"sm_{capability}" + ("a" if capability == 90 else "")
        command = [get_ptxas(capability).path, "-v", f"--gpu-name={arch}", str(path), "-o", str(path) + ".cubin"]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    registers = max(int(found) for found in re.findall(r"Used (\d+) registers", said))
    return registers, sum(int(found) for found in re.findall(r"(\d+) bytes spill", said))


def runs_on(variant: Variant, capability: int) -> bool:
    """Tensor cores that take 8-bit floats get them; products are decoded for the others alone."""
    has_fp8 = capability >= 89
    if "wide" in variant.name and capability < 90:
        return False
    if "native" in variant.name:
        return has_fp8
    return bool(variant.constants.get("IS_NATIVE", has_fp8)) == has_fp8


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--targets", default="80,89,90")
    parser.add_argument("--only", nargs="*", default=[""], help="kernels whose names contain one of these")
    options = parser.parse_args()
    num_failed = 0
    for variant in variants():
        if any(part in variant.name for part in options.only):
            for capability in map(int, options.targets.split(",")):
                if runs_on(variant, capability):
                    found = attempted(variant, capability)
                    num_failed += "error" in found
                    sys.stdout.write(json.dumps(found) + "\n")
                    sys.stdout.flush()
    return min(1, num_failed)


if __name__ == "__main__":
    sys.exit(main())
