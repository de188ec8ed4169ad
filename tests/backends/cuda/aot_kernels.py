"""Compiles every kernel for named targets, without a device; a child process, because the interpreter compiles none.

Prints a JSON line a kernel and target: registers, bytes spilled, bytes of PTX and cubin. `--targets 80,90` chooses.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.backends.nvidia.compiler import get_ptxas
from triton.compiler import ASTSource

from vivace.backends.cuda.kernels import attention, attention_merge
from vivace.backends.cuda.kernels.attention import AttentionShape
from vivace.backends.cuda.kernels.paged_plane import PagedPlane, float_plane, int4_plane, int8_plane

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
        signature = {name: self._type(name) for name in self.kernel.arg_names}
        return ASTSource(
            self.kernel, signature, {(self.kernel.arg_names.index(n),): v for n, v in self.constants.items()}
        )

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
        "int4": int4_plane(
            torch.zeros((*size, shape.head_dim // 32, 16), dtype=torch.uint8), torch.zeros((*size, 4, 2))
        ),
    }


def attention_variants() -> Iterator[Variant]:
    shape = AttentionShape(32, 8, 128, 0.09)
    for name, plane in planes(shape).items():
        for chunk, rows in ((attention.CHUNK, 1), (0, 32)):
            constants = attention.constants(shape, plane, rows, chunk, torch.bfloat16)
            options = {key: constants.pop(key) for key in OPTIONS if key in constants}
            code = "*bf16" if name == "bf16" else "*u8"
            pointers = dict.fromkeys(("q", "out", "key_ranges", "value_ranges"), "*bf16")
            pointers |= dict.fromkeys(("partial", "statistics"), "*fp32") | dict.fromkeys(("keys", "values"), code)
            integers = ("query_starts", "context_lens", "tables", "sequences", "first_rows")
            pointers |= dict.fromkeys(integers, "*i32")
            strides = ("key_strides", "key_range_strides", "value_strides", "value_range_strides")
            kind = "decode" if chunk else "prefill"
            yield Variant(
                f"attention {kind} {name}", attention.attend_tile, pointers, constants, ("scale", "cap"), strides, options
            )  # fmt: skip
    pointers = dict.fromkeys(("query_starts", "context_lens", "sequences", "first_rows"), "*i32")
    pointers |= {"partial": "*fp32", "statistics": "*fp32", "out": "*bf16"}
    constants = {"HEADS": 4, "KV_HEADS": 8, "ROWS": 1, "HEAD_DIM": 128, "DIM": 128, "CHUNK": 256, "HAS_WINDOW": False}
    yield Variant("attention merge", attention_merge.merge_chunks, pointers, constants, options={"num_warps": 1})


def variants() -> Iterator[Variant]:
    yield from attention_variants()


def compiled(variant: Variant, capability: int) -> dict[str, object]:
    result = triton.compile(variant.source(), GPUTarget("cuda", capability, 32), variant.options)
    registers, spilled = usage(result.asm["ptx"], capability)
    return {
        "kernel": variant.name,
        "target": f"sm_{capability}",
        "registers": registers,
        "spilled_bytes": spilled,
        "shared_bytes": result.metadata.shared,
        "ptx_bytes": len(result.asm["ptx"]),
        "cubin_bytes": len(result.asm["cubin"]),
    }


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--targets", default="80,89,90")
    parser.add_argument("--only", default="", help="kernels whose name contains this")
    options = parser.parse_args()
    for variant in variants():
        if options.only in variant.name:
            for capability in map(int, options.targets.split(",")):
                sys.stdout.write(json.dumps(compiled(variant, capability)) + "\n")
                sys.stdout.flush()


if __name__ == "__main__":
    main()
