"""Decode speed by context depth and KV cache type, one model in one process, interleaved A B C A B C.

    python benches/kv_depth.py [--config llama-3.2-1b] [--depths 2048 8192] [--rounds 7] [--kinds ...] [--scattered]

Random weights (int4) of a real shape, caches filled with random keys and values without computing a prompt: speed
only. The context's blocks follow each other, as in a fresh pool, or lie --scattered, as in one long used. Each round
times a few decode steps with every cache in turn, and reads a huge-page buffer. Prints a Markdown table: medians,
(minimum - maximum), and the median of the per-round ratios to the first kind.
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import get_args

import numpy as np

from vivace.backends.cpu.backend import CpuBackend, CpuExecutable, CpuKVCache
from vivace.bench.cost import ModelCost, model_cost
from vivace.core.config import KVDtype
from vivace.formats.quantize_rtn import encode
from vivace.models.decoder import build_decoder
from vivace.models.parameters import dummy_parameters
from vivace.models.presets import preset_spec
from vivace.models.spec import ModelSpec
from vivace.ops.backend import KVSpec, StepInputs, StepLimits
from vivace.ops.program import Program

BLOCK_SIZE = 16
FILLED_AT_ONCE = 1024
STEPS = 4  # of one measurement


def step(start: int, count: int, table: np.ndarray) -> StepInputs:
    """Tokens start .. start + count of the one sequence."""
    positions = np.arange(start, start + count, dtype=np.int32)
    return StepInputs(
        token_ids_T=np.arange(count, dtype=np.int32),
        positions_T=positions,
        slots_T=table[positions // BLOCK_SIZE] * np.int32(BLOCK_SIZE) + positions % np.int32(BLOCK_SIZE),
        query_starts_B1=np.array([0, count], np.int32),
        context_lens_B=np.array([start + count], np.int32),
        block_tables_BX=np.ascontiguousarray(table[None]),
        sampled_rows_S=np.array([count - 1], np.int32),
    )


def fill(backend: CpuBackend, spec: ModelSpec, cache: CpuKVCache, depth: int, table: np.ndarray) -> None:
    """Write random keys and values to the first `depth` positions of every layer."""
    width = spec.num_kv_heads * spec.head_dim
    rows = np.random.default_rng(0).standard_normal((FILLED_AT_ONCE, 2 * width), np.float32)
    program = Program()
    both = program.embedding(backend.pack("keys and values", encode(rows, "f32")))
    for layer in range(spec.num_layers):
        program.kv_write(both.columns(0, width), both.columns(width, 2 * width), layer)
    program.output = both
    executable = backend.compile(program, cache, StepLimits(FILLED_AT_ONCE, 1))
    for start in range(0, depth, FILLED_AT_ONCE):
        executable.run(step(start, min(FILLED_AT_ONCE, depth - start), table))


def seconds_a_step(executable: CpuExecutable, depth: int, table: np.ndarray) -> float:
    started = time.perf_counter()
    for position in range(depth, depth + STEPS):
        executable.run(step(position, 1, table))
    return (time.perf_counter() - started) / STEPS


def caches(
    backend: CpuBackend, spec: ModelSpec, kinds: list[KVDtype], depth: int, table: np.ndarray
) -> dict[KVDtype, CpuKVCache]:
    """Filled up to `depth`."""
    filled = {}
    for kind in kinds:
        kv_spec = KVSpec(spec.num_layers, spec.num_kv_heads, spec.head_dim, BLOCK_SIZE, kind)
        filled[kind] = backend.kv_cache(kv_spec, len(table))
        fill(backend, spec, filled[kind], depth, table)
    return filled


def measure(
    backend: CpuBackend, executables: dict[KVDtype, CpuExecutable], depth: int, table: np.ndarray, rounds: int
) -> tuple[dict[KVDtype, list[float]], float]:
    """Seconds a step of each kind in each round, and the median of the plain read's bytes a second."""
    times: dict[KVDtype, list[float]] = {kind: [] for kind in executables}
    plain = []
    for number in range(rounds + 1):
        for kind, executable in executables.items():
            seconds = seconds_a_step(executable, depth, table)
            if number:  # the first round warms up
                times[kind].append(seconds)
        plain.append(backend.device.measure_read_bandwidth(256 * 2**20, 2))
    return times, statistics.median(plain)


def row(times: list[float], first: list[float], cost: ModelCost, depth: int) -> str:
    speeds = [1 / seconds for seconds in times]
    median = statistics.median(speeds)
    ratio = statistics.median(b / a for a, b in zip(times, first, strict=True))
    read = cost.decode_bytes(1, depth) * median / 1e9
    return (
        f"{cost.kv_bytes_per_token} | {median:.1f} ({min(speeds):.1f} - {max(speeds):.1f}) | {ratio:.2f} | {read:.1f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--config", default="llama-3.2-1b")
    parser.add_argument("--depths", type=int, nargs="+", default=[2048, 8192])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--kinds", nargs="+", choices=get_args(KVDtype), default=list(get_args(KVDtype)[1:]))
    parser.add_argument("--scattered", action="store_true")
    arguments = parser.parse_args()
    spec, backend = preset_spec(arguments.config), CpuBackend()
    parameters = dummy_parameters(spec, backend, "q4_0", 0)
    model = build_decoder(spec, parameters, max(arguments.depths) + STEPS)
    print("| depth | cache | bytes a token | tok/s | ratio | read, GB/s | plain read, GB/s |\n" + "|---" * 7 + "|")
    for depth in arguments.depths:
        table = np.arange(depth // BLOCK_SIZE + 1, dtype=np.int32)
        if arguments.scattered:
            table = np.random.default_rng(1).permutation(table)
        filled = caches(backend, spec, arguments.kinds, depth, table)
        executables = {kind: backend.compile(model, cache, StepLimits(1, 1)) for kind, cache in filled.items()}
        times, plain = measure(backend, executables, depth, table, arguments.rounds)
        for kind, cache in filled.items():
            cost = model_cost(spec, parameters, cache.spec)
            cells = row(times[kind], times[arguments.kinds[0]], cost, depth)
            print(f"| {depth} | {kind} | {cells} | {plain / 1e9:.1f} |", flush=True)


if __name__ == "__main__":
    main()
