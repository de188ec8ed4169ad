"""Kernels and the engine on a CUDA device: correctness, speed, and both beside what the device can do.

    python benches/gpu.py [--rounds 20] [--only ceilings attention rows products engine] [--json FILE]

Prints Markdown tables. Ceilings: a copy of 1 GiB, a bf16 product of 8192. Each kernel runs on fresh random inputs,
is compared with `vivace.ops.reference` (or a float32 product of what its weights stand for) and timed with events,
the second-level cache filled with something else before each run: medians with (minimum - maximum), beside torch's
own way to do the same. Exit code 2 without a device.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

try:
    import torch
    import triton
except ImportError as error:
    print(f"benches/gpu.py: {error}: pip install 'vivace[gpu]'", file=sys.stderr)
    sys.exit(2)

from vivace.backends.cuda.kernels.attention import AttentionShape, paged_attention, whole_tile
from vivace.backends.cuda.kernels.gated_activation import gated_activation
from vivace.backends.cuda.kernels.matrix_product import matrix_product
from vivace.backends.cuda.kernels.paged_plane import PagedPlane, float_plane, int4_plane, int8_plane
from vivace.backends.cuda.kernels.ragged_rows import RaggedRows, ragged_rows
from vivace.backends.cuda.kernels.rms_norm import add_rms_norm
from vivace.backends.cuda.kernels.rope import rope
from vivace.backends.cuda.matrix import load_matrix
from vivace.formats.dequantize import dequantize
from vivace.models.dummy import DummyTensors
from vivace.ops import reference
from vivace.ops.backend import StepInputs

PARTS = ("ceilings", "attention", "rows", "products", "engine")
FLUSH_BYTES = 256 << 20  # five times an H100's second-level cache
BLOCK = 16
HEADS = AttentionShape(32, 8, 128, 128**-0.5)  # of Llama-3.1-8B
DEPTH_TESTED = 1024  # the reference computes row by row on the host
Run = Callable[[], object]


@dataclass
class Result:
    """Milliseconds of the kernel and of torch's way; `rate` and `ceiling` in GB/s or TFLOP/s; the largest error."""

    name: str
    milliseconds: float
    spread: str
    rate: float
    unit: str
    share: float
    peer: str
    peer_milliseconds: float
    error: float


@dataclass
class Ceilings:
    gb_per_s: float
    tflop_per_s: float


class Stopwatch:
    """Device time of a call: events around it, the second-level cache filled with something else before it."""

    def __init__(self, rounds: int) -> None:
        self._rounds = rounds
        self._flush = torch.empty(FLUSH_BYTES, dtype=torch.uint8, device="cuda")

    def milliseconds(self, run: Run) -> list[float]:
        for _ in range(3):  # compiles, and lets libraries choose
            run()
        times = []
        for _ in range(self._rounds):
            self._flush.zero_()
            start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            run()
            stop.record()
            stop.synchronize()
            times.append(start.elapsed_time(stop))
        return times


class Bench:
    def __init__(self, rounds: int, rng: np.random.Generator) -> None:
        self.rng = rng
        self.results: list[Result] = []
        self._watch = Stopwatch(rounds)
        self.ceilings = self._measure_ceilings()

    def add(
        self, name: str, run: Run, *, num_bytes: float = 0, flops: float = 0, peer: tuple[str, Run], error: float
    ) -> None:
        """`num_bytes` or `flops`, whichever binds."""
        times, peer_times = self._watch.milliseconds(run), self._watch.milliseconds(peer[1])
        median = statistics.median(times)
        rate = num_bytes / median / 1e6 if num_bytes else flops / median / 1e9
        ceiling = self.ceilings.gb_per_s if num_bytes else self.ceilings.tflop_per_s
        unit = "GB/s" if num_bytes else "TFLOP/s"
        spread = f"({min(times):.3f} - {max(times):.3f})"
        peer_median = statistics.median(peer_times)
        result = Result(name, median, spread, rate, unit, rate / ceiling, peer[0], peer_median, error)
        self.results.append(result)
        print(
            f"| {name} | {median:.3f} {spread} | {rate:.0f} {unit} | {rate / ceiling:.0%} "
            f"| {peer[0]}: {peer_median:.3f} | {error:.1e} |",
            flush=True,
        )

    def _measure_ceilings(self) -> Ceilings:
        source = torch.empty(1 << 30, dtype=torch.uint8, device="cuda")
        target = torch.empty_like(source)
        copy = min(self._watch.milliseconds(lambda: target.copy_(source)))
        a, b = (torch.randn(8192, 8192, dtype=torch.bfloat16, device="cuda") for _ in range(2))
        product = min(self._watch.milliseconds(lambda: a @ b))
        return Ceilings(2 * source.nbytes / copy / 1e6, 2 * 8192**3 / product / 1e9)


def step_of(spans: list[tuple[int, int]], rng: np.random.Generator) -> tuple[StepInputs, int]:
    """Rows and context of each sequence; blocks in random order."""
    counts = [-(-context // BLOCK) for _, context in spans]
    order = rng.permutation(sum(counts)).astype(np.int32)
    tables = np.zeros((len(spans), max(counts)), np.int32)
    for sequence, blocks in enumerate(np.split(order, np.cumsum(counts)[:-1])):
        tables[sequence, : len(blocks)] = blocks
    starts = np.cumsum([0] + [rows for rows, _ in spans]).astype(np.int32)
    nothing = np.zeros(0, np.int32)
    contexts = np.array([context for _, context in spans], np.int32)
    return StepInputs(nothing, nothing, nothing, starts, contexts, tables, nothing), sum(counts)


def random_plane(num_blocks: int, kind: str) -> PagedPlane:
    size = (num_blocks, BLOCK, HEADS.num_kv_heads)
    if kind == "bf16":
        return float_plane(torch.randn((*size, HEADS.head_dim), dtype=torch.bfloat16, device="cuda"))
    groups = () if kind == "int8" else (HEADS.head_dim // 32,)
    width = HEADS.head_dim if kind == "int8" else 16
    codes = torch.randint(0, 256, (*size, *groups, width), dtype=torch.uint8, device="cuda")
    scale = torch.full((*size, *groups), 4 / (255 if kind == "int8" else 15), device="cuda")
    ranges = torch.stack([scale, torch.full_like(scale, -2.0)], dim=-1).bfloat16()
    return int8_plane(codes, ranges) if kind == "int8" else int4_plane(codes, ranges)


def decoded(plane: PagedPlane) -> np.ndarray:
    """float32 [blocks, G, S, K] on the host."""
    codes = plane.codes
    if plane.kind == "int4":
        pairs = codes.unflatten(-1, (-1, 16))
        codes = torch.cat([pairs & 15, pairs >> 4], dim=-1).flatten(-2)
    numbers = codes.float()
    if plane.ranges is not None:
        ranges = plane.ranges.float()
        numbers = (numbers.unflatten(-1, (ranges.shape[-2], -1)) * ranges[..., :1] + ranges[..., 1:]).flatten(-2)
    return numbers.permute(0, 2, 1, 3).contiguous().cpu().numpy()


def prepared(
    spans: list[tuple[int, int]], kind: str, rng: np.random.Generator
) -> tuple[torch.Tensor, PagedPlane, PagedPlane, RaggedRows, StepInputs]:
    inputs, num_blocks = step_of(spans, rng)
    keys, values = random_plane(num_blocks, kind), random_plane(num_blocks, kind)
    width = HEADS.num_heads * HEADS.head_dim
    q = torch.randn((int(inputs.query_starts_B1[-1]), width), dtype=torch.bfloat16, device="cuda")
    group = HEADS.num_heads // HEADS.num_kv_heads
    return q, keys, values, ragged_rows(inputs, group, whole_tile(HEADS.head_dim), q.device), inputs


def attention_error(kind: str, rng: np.random.Generator) -> float:
    """Of a ragged batch against the definition in float32."""
    q, keys, values, rows, inputs = prepared([(1, DEPTH_TESTED), (40, 200), (3, 77), (1, 1)], kind, rng)
    result = paged_attention(q, keys, values, rows, HEADS).float().cpu().numpy()
    expected = reference.paged_attention(
        q.float().cpu().numpy(), decoded(keys), decoded(values),
        inputs.query_starts_B1, inputs.context_lens_B, inputs.block_tables_BX,
        scale=HEADS.scale, window=None, softcap=None,
    )  # fmt: skip
    return float(np.abs(result - expected).max())


def torch_attention(batch: int, rows: int, context: int) -> Run:
    """torch's SDPA over contiguous keys and values: no pages to follow."""
    q = torch.randn((batch, HEADS.num_heads, rows, HEADS.head_dim), dtype=torch.bfloat16, device="cuda")
    k, v = (
        torch.randn((batch, HEADS.num_kv_heads, context, HEADS.head_dim), dtype=torch.bfloat16, device="cuda")
        for _ in range(2)
    )
    attend = torch.nn.functional.scaled_dot_product_attention
    return lambda: attend(q, k, v, is_causal=rows > 1, enable_gqa=True)


def bench_attention(bench: Bench) -> None:
    bytes_of = {"bf16": 2 * HEADS.head_dim, "int8": HEADS.head_dim + 4, "int4": HEADS.head_dim // 2 + 16}
    for kind, head_bytes in bytes_of.items():
        error = attention_error(kind, bench.rng)
        for batch, context in ((1, 2048), (1, 16384), (8, 4096), (64, 2048)):
            q, keys, values, rows, _ = prepared([(1, context)] * batch, kind, bench.rng)
            num_bytes = 2 * batch * context * HEADS.num_kv_heads * head_bytes
            peer = ("SDPA bf16", torch_attention(batch, 1, context))
            run = _attention_run(q, keys, values, rows)
            bench.add(f"decode {kind} {batch} x {context}", run, num_bytes=num_bytes, peer=peer, error=error)
        for length in (2048, 16384):
            q, keys, values, rows, _ = prepared([(length, length)], kind, bench.rng)
            flops = 2 * HEADS.num_heads * HEADS.head_dim * length * length  # half of 4 H K C^2: causal
            peer = ("SDPA bf16", torch_attention(1, length, length))
            run = _attention_run(q, keys, values, rows)
            bench.add(f"prefill {kind} {length}", run, flops=flops, peer=peer, error=error)


def _attention_run(q: torch.Tensor, keys: PagedPlane, values: PagedPlane, rows: RaggedRows) -> Run:
    return lambda: paged_attention(q, keys, values, rows, HEADS)


def bench_rows(bench: Bench) -> None:
    for num_rows in (64, 4096):
        x, residual = (torch.randn((num_rows, 4096), dtype=torch.bfloat16, device="cuda") for _ in range(2))
        weight = torch.randn(4096, device="cuda")
        total, normed = add_rms_norm(x, residual, weight, 1e-5)
        expected = reference.rms_norm(total.float(), weight, 1e-5, 1)
        bench.add(
            f"add and norm {num_rows} x 4096", lambda: add_rms_norm(x, residual, weight, 1e-5),  # noqa: B023
            num_bytes=4 * x.nbytes, error=float((normed.float() - expected).abs().max()),
            peer=("torch", lambda: torch.nn.functional.rms_norm(x + residual, (4096,), weight.bfloat16())),  # noqa: B023
        )  # fmt: skip
        halves = torch.randn((num_rows, 2 * 14336), dtype=torch.bfloat16, device="cuda")
        error = gated_activation(halves, "silu").float() - reference.gated_activation(halves.float(), "silu")
        bench.add(
            f"silu and up {num_rows} x 14336", lambda: gated_activation(halves, "silu"),  # noqa: B023
            num_bytes=1.5 * halves.nbytes, error=float(error.abs().max()),
            peer=("torch", lambda: torch.nn.functional.silu(halves[:, :14336]) * halves[:, 14336:]),  # noqa: B023
        )  # fmt: skip
        table = torch.randn((num_rows, 128), device="cuda")
        error = rope(x, table, 128).float() - reference.rope(x.float(), table, 128)
        bench.add(
            f"rope {num_rows} x 4096", lambda: rope(x, table, 128),  # noqa: B023
            num_bytes=2 * x.nbytes, error=float(error.abs().max()),
            peer=("torch", lambda: reference.rope(x, table, 128)),  # noqa: B023
        )  # fmt: skip


def bench_products(bench: Bench) -> None:
    """The gate and up projections of Llama-3.1-8B side by side. Errors are relative to the largest output."""
    outputs, inputs = 28672, 4096
    dense = torch.randn((outputs, inputs), dtype=torch.bfloat16, device="cuda")
    source = DummyTensors("int4_g128", 0)
    for encoding in ("int4_g128", "q4_0", "q4_k", "q6_k", "q8_0", "int8_channel", "int8_outlier"):
        stored = source.matrix("gate_up", (outputs, inputs), encoding)
        matrix = load_matrix(stored, torch.device("cuda"))
        weight = torch.from_numpy(dequantize(stored)).cuda()
        for num_rows in (1, 8, 64, 2048):
            x = torch.randn((num_rows, inputs), dtype=torch.bfloat16, device="cuda")
            bench.add(
                f"{encoding}, {num_rows} rows", lambda: matrix_product(x, matrix),  # noqa: B023
                num_bytes=matrix.num_bytes, peer=("cuBLAS bf16", _product_run(x, dense)),
                error=_relative(matrix_product(x, matrix), x.float() @ weight.T),
            )  # fmt: skip


def _product_run(x: torch.Tensor, dense: torch.Tensor) -> Run:
    return lambda: x @ dense.T


def _relative(result: torch.Tensor, expected: torch.Tensor) -> float:
    return float((result - expected).abs().max() / expected.abs().max())


def engine_runs() -> Iterator[list[str]]:
    for config in ("llama-3.2-1b", "llama-3.1-8b"):
        for quantization in ("none", "int4"):
            for streams in (1, 8, 64, 256):
                arguments = ["bench", "latency", "--device", "cuda", "--load-format", "dummy", "--config", config]
                arguments += ["--batch-size", str(streams)]
                yield arguments if quantization == "none" else [*arguments, "--quantization", quantization]


def bench_engine() -> int:
    """The command line's own report of each; the number of runs that failed."""
    failed = 0
    for arguments in engine_runs():
        print(f"\n`vivace {' '.join(arguments)}`\n", flush=True)
        failed += subprocess.run([sys.executable, "-m", "vivace", *arguments], check=False).returncode != 0
    return failed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seed", type=int, default=None, help="of the inputs; drawn where it is not given")
    parser.add_argument("--only", nargs="*", choices=PARTS, default=PARTS)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if not torch.cuda.is_available():
        print("benches/gpu.py: no CUDA device is at hand: nothing was measured", file=sys.stderr)
        return 2
    seed = int(np.random.default_rng().integers(1 << 31)) if options.seed is None else options.seed
    torch.manual_seed(seed)
    bench = Bench(options.rounds, np.random.default_rng(seed))
    ceilings = bench.ceilings
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, triton {triton.__version__}, seed {seed}")
    print(
        f"Python {platform.python_version()}, CUDA {torch.version.cuda}, driver's memory {torch.cuda.mem_get_info()}"
    )
    print(f"Ceilings: {ceilings.gb_per_s:.0f} GB/s copied, {ceilings.tflop_per_s:.0f} TFLOP/s bf16\n")
    print("| kernel | ms (min - max) | rate | of the ceiling | torch, ms | largest error |")
    print("|---|---|---|---|---|---|")
    parts = {"attention": bench_attention, "rows": bench_rows, "products": bench_products}
    for name in options.only:
        if name in parts:
            parts[name](bench)
    if options.json is not None:
        record = {"seed": seed, "ceilings": asdict(ceilings), "kernels": [asdict(one) for one in bench.results]}
        options.json.write_text(json.dumps(record, indent=1))
    return 1 if "engine" in options.only and bench_engine() else 0


if __name__ == "__main__":
    sys.exit(main())
