"""What the machine code of each kernel promises on an H100: a model, where there is no device to measure on.

For the innermost loops of every variant of `aot_kernels`, an iteration's clocks on each unit of a multiprocessor that
it needs, as if a unit did nothing else; the bytes that stay under way beside the computation; and the share of the
ceiling that follows. Kernels that multiply much (prompts, many rows) are held against the tensor cores' rate, others
against memory. Prints a JSON line a loop, or with `--table` a short one. Nothing here is measured on the kernels.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import triton
from aot_kernels import Variant, variants
from sass_loops import Loop, innermost_loops
from triton.backends.compiler import GPUTarget

TOOLS = Path(triton.__file__).parent / "backends/nvidia/bin"

# A multiprocessor of an H100 SXM, a clock.
CLOCK_HZ, NUM_MULTIPROCESSORS = 1.755e9, 132
ISSUED = 4  # instructions of a warp
MATRIX_16_BIT, MATRIX_8_BIT = 4096, 8192  # dense multiplications and additions, by warpgroups
MATRIX_OF_A_WARP = 0.62  # of that, by the instructions of single warps
SPECIAL = 16  # threads' MUFU; conversions of integers and floats are counted alike
INTEGER = 64  # threads' logic, comparisons, moves; as many integer multiplications
FLOAT = 128
SHARED_BYTES = 128
REGISTERS, SHARED_MEMORY, WARPS, PROGRAMS = 65536, 227 << 10, 64, 32
MEMORY_BYTES = 3.0e12 / NUM_MULTIPROCESSORS / CLOCK_HZ  # 12.95: of a copy's rate, read and written
CACHE_BYTES, CACHE_LATENCY = 40, 300  # of the second-level cache: bytes a clock of one multiprocessor, clocks
LATENCY = 1100  # clocks, 0.63 us: of memory under load
BYTES_UNDER_WAY = MEMORY_BYTES * LATENCY  # 14 KB by Little's law; twice that hides the ends of tiles and programs
ISSUE_SHARE = 0.75  # of the slots that few warps with dependent instructions fill
MATRIX_BOUND = ("prefill", "4096 rows")  # held against the tensor cores


@dataclass(frozen=True, slots=True)
class Resources:
    """Of a program."""

    warps: int
    registers: int
    shared_bytes: int

    @property
    def programs(self) -> int:
        """That fit a multiprocessor. Registers are given to warps in runs of 8 a thread, shared memory with 1 KiB."""
        by_registers = REGISTERS // (self.warps * 32 * -(-self.registers // 8) * 8)
        by_shared = SHARED_MEMORY // (self.shared_bytes + 1024)
        return min(by_registers, by_shared, WARPS // self.warps, PROGRAMS)


@dataclass(frozen=True, slots=True)
class Report:
    """Of a loop in a kernel whose programs fill the device."""

    name: str
    resources: Resources
    loop: Loop

    def clocks(self) -> dict[str, float]:
        """That an iteration of one program takes of each unit."""
        loop, warps, counts = self.loop, self.resources.warps, self.loop.classes()
        rate = MATRIX_8_BIT if loop.has_8_bit_matrices else MATRIX_16_BIT
        threads = 32 * warps
        matrix = loop.matrix_operations("warpgroup") + loop.matrix_operations("warp") / MATRIX_OF_A_WARP
        return {
            "issue": loop.num_instructions * warps / ISSUED,
            "matrix": matrix * warps / rate,
            "special": (counts["special"] + counts["conversion"]) * threads / SPECIAL,
            "integer": (counts["integer"] + counts["pack"]) * threads / INTEGER,
            "multiply": counts["multiply"] * threads / INTEGER,
            "float": counts["float"] * threads / FLOAT,
            "shared": loop.shared_bytes * threads / SHARED_BYTES,
            "memory": loop.loaded_bytes * threads / MEMORY_BYTES,
        }

    @property
    def bytes_under_way(self) -> float:
        """On a multiprocessor, while its programs compute: what copies run ahead, or half of what is loaded where a
        program waits for all of it."""
        loop, threads = self.loop, 32 * self.resources.warps
        ahead = 0.5
        if loop.pending is not None and loop.groups:
            ahead = max(ahead, loop.pending / loop.groups)
        return ahead * loop.loaded_bytes * threads * self.resources.programs

    @property
    def is_matrix_bound(self) -> bool:
        """Programs read the same keys or weights side by side, out of the second-level cache."""
        return any(kind in self.name for kind in MATRIX_BOUND)

    def exposed(self) -> float:
        """Clocks of a program alone on its multiprocessor that wait for a tile which is fetched behind the last
        product but one: half of the products hide it."""
        loop = self.loop
        if self.resources.programs > 1 or loop.pending != 0:
            return 0.0
        fetched = CACHE_LATENCY + loop.loaded_bytes * 32 * self.resources.warps / CACHE_BYTES
        return max(0.0, fetched - self.clocks()["matrix"] / 2)

    def share(self) -> tuple[float, str]:
        """Of the ceiling, and what binds. Matrices: as if products and the other instructions of a program took turns
        when it is alone on its multiprocessor, and went side by side when it is not."""
        clocks = self.clocks()
        issue = clocks["issue"] / ISSUE_SHARE
        others = {name: value for name, value in clocks.items() if name not in ("issue", "memory", "matrix")}
        busy = max(issue, *others.values())
        unit = "issue" if busy == issue else max(others, key=others.__getitem__)
        if self.is_matrix_bound:
            whole = clocks["matrix"] + busy if self.resources.programs == 1 else max(clocks["matrix"], busy)
            whole += self.exposed()
            return clocks["matrix"] / whole, "tensor cores" if clocks["matrix"] > busy else unit
        flight = min(1.0, self.bytes_under_way / (2 * BYTES_UNDER_WAY))
        whole = max(clocks["memory"] / flight, busy, clocks["matrix"])
        bound = "bytes under way" if flight < 1 else "memory"
        if whole > clocks["memory"] / flight:
            bound = unit if whole == busy else "tensor cores"
        return clocks["memory"] / whole, bound

    def line(self) -> dict[str, object]:
        share, bound = self.share()
        return {
            "kernel": self.name,
            "registers": self.resources.registers,
            "shared_bytes": self.resources.shared_bytes,
            "programs": self.resources.programs,
            "warps": self.resources.programs * self.resources.warps,
            "instructions": self.loop.num_instructions,
            "loaded_bytes": self.loop.loaded_bytes * 32 * self.resources.warps,
            "under_way": round(self.bytes_under_way),
            "clocks": {name: round(value) for name, value in self.clocks().items()},
            "ceiling": "tensor cores" if self.is_matrix_bound else "memory",
            "share": round(share, 3),
            "bound": bound,
            "classes": dict(self.loop.classes().most_common()),
        }


def reports(variant: Variant) -> list[Report]:
    options = variant.options | {"launch_pdl": True}
    result = triton.compile(variant.source(), GPUTarget("cuda", 90, 32), options)
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "kernel.cubin"
        path.write_bytes(result.asm["cubin"])
        text = _said(TOOLS / "nvdisasm", "-c", path)
        usage = _said(TOOLS / "cuobjdump", "-res-usage", path)
    registers = max(int(found) for found in re.findall(r"REG:(\d+)", usage))
    resources = Resources(result.metadata.num_warps, registers, result.metadata.shared)
    return [Report(variant.name, resources, loop) for loop in innermost_loops(text)]


def _said(*command: object) -> str:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=True)
    return done.stdout + done.stderr


def row(report: Report) -> str:
    share, bound = report.share()
    clocks = report.clocks()
    return (
        f"{report.name:42} {report.resources.registers:4} {report.resources.programs:3} "
        f"{report.loop.num_instructions:5} {clocks['issue']:6.0f} {clocks['matrix']:6.0f} {clocks['special']:6.0f} "
        f"{clocks['shared']:6.0f} {clocks['memory']:6.0f} {report.bytes_under_way / 1000:6.1f} {share:5.0%} {bound}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="*", default=[""], help="kernels whose names contain one of these")
    parser.add_argument("--table", action="store_true", help="a short line each instead of JSON")
    options = parser.parse_args()
    if options.table:
        sys.stdout.write(f"{'kernel':42} regs pro instr  issue matrix special shared memory  KB ahead share bound\n")
    for variant in variants():
        if any(part in variant.name for part in options.only) and "decoded" not in variant.name:
            for report in reports(variant):
                sys.stdout.write((row(report) if options.table else json.dumps(report.line())) + "\n")
                sys.stdout.flush()


if __name__ == "__main__":
    main()
