"""Operations as the engine runs them: recorded programs, compiled for the device and timed; or by the reference."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from gpu.setting import Setting
from gpu.timing import Ceilings, Run, peer_seconds, rates, spread, try_peer
from vivace.backends.reference.backend import ReferenceBackend
from vivace.bench.op_cost import DEVICE, StepShape, op_cost
from vivace.ops import program as ir
from vivace.ops.backend import KVSpec, StepInputs, StepLimits
from vivace.ops.program import Program

NO_CACHE = KVSpec(1, 1, 32, 16, "bf16")
TOLERANCE = 1e-2  # of ||result - reference|| / ||reference||: bfloat16 operands come between 1e-3 and this
SPOILED_BYTES, SMALL_BYTES, NUM_SMALL = 1 << 29, 1 << 19, 16
Peers = dict[str, Callable[[], list[Run]]]


def bfloat16(values: np.ndarray) -> np.ndarray:
    """float32 numbers that a bfloat16 holds: cut off, so that device and reference read the same."""
    return (np.ascontiguousarray(values, np.float32).view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)


def row_step(states_TD: np.ndarray) -> StepInputs:
    """Rows of one sequence that bring their states; nothing is read from a cache."""
    count = len(states_TD)
    rows = np.arange(count, dtype=np.int32)
    return StepInputs(
        token_ids_T=np.zeros(count, np.int32),
        positions_T=rows,
        slots_T=rows,
        query_starts_B1=np.array([0, count], np.int32),
        context_lens_B=np.array([count], np.int32),
        block_tables_BX=np.zeros((1, -(-count // 16)), np.int32),
        sampled_rows_S=rows,
        states_TD=states_TD,
    )


def limits_of(inputs: StepInputs) -> StepLimits:
    longest = int(inputs.context_lens_B.max(initial=1))
    return StepLimits(len(inputs.token_ids_T), max(1, len(inputs.sampled_rows_S)), max_context=longest)


def spoil(device: torch.device) -> None:
    """Let what torch allocates next hold NaN, so that what no kernel writes is seen. It hands freed memory out again:
    small tensors from pieces of 2 MiB, the others from larger ones."""
    if device.type != "cuda":
        return
    torch.cuda.empty_cache()
    sizes = [*[SMALL_BYTES] * NUM_SMALL, SPOILED_BYTES]
    held = [torch.full((size // 4,), float("nan"), device=device) for size in sizes]
    del held


def run_on_device(backend: Any, program: Program, cache: Any, inputs: StepInputs) -> np.ndarray:
    """Its output, in memory that held no numbers before."""
    if backend.name == "cuda":
        spoil(backend.device)
    executable = backend.compile(program, cache, limits_of(inputs))
    return np.array(backend.on_host(executable.run(inputs)))


def reference_backend() -> ReferenceBackend:
    return ReferenceBackend(np.float32)


def relative_error(result: np.ndarray, expected: np.ndarray) -> float:
    """NaN or a number that is missing is no small error."""
    error = float(np.linalg.norm(result.astype(np.float64) - expected) / max(1e-30, float(np.linalg.norm(expected))))
    return error if np.isfinite(error) else float("inf")


def verdict(error: float, tolerance: float = TOLERANCE) -> dict[str, Any]:
    return {"error": None, "relative_error": error, "tolerance": tolerance, "is_right": error <= tolerance}


def measured(
    setting: Setting,
    ceilings: Ceilings,
    executable: Any,
    program: Program,
    inputs: StepInputs,
    shape: StepShape,
    spec: KVSpec,
    kinds: tuple[type[ir.Op], ...],
    peers: Peers,
) -> dict[str, Any]:
    """Times of the program's runs of operations of these kinds, a library's after each round of them."""
    places = _places(program, kinds)
    costs = [op_cost(program.ops[places[-1] + offset], shape, spec, DEVICE) for offset in range(len(kinds))]
    num_bytes, operations = sum(cost.num_bytes for cost in costs), sum(cost.operations for cost in costs)
    runs = {name: try_peer(make) for name, make in peers.items()}
    executable.run_timed(inputs)  # compiles, and lets libraries choose
    ours: list[float] = []
    theirs: dict[str, list[float]] = {name: [] for name, (found, _) in runs.items() if found}
    for _ in range(setting.rounds):
        timed = executable.run_timed(inputs)
        ours.extend(float(timed[place : place + len(kinds)].sum()) for place in places)
        for name, seconds in theirs.items():
            seconds.extend(peer_seconds(setting, runs[name][0]))
    median = statistics.median(ours)
    return {
        **spread(ours),
        **rates(median, num_bytes, operations, costs[-1].unit, ceilings),
        "peers": {name: spread(seconds) for name, seconds in theirs.items()},
        "refused": {name: complaint for name, (_, complaint) in runs.items() if complaint is not None},
    }


def _places(program: Program, kinds: tuple[type[ir.Op], ...]) -> list[int]:
    """Where a run of these kinds begins."""
    runs = (program.ops[index : index + len(kinds)] for index in range(len(program.ops)))
    return [
        index
        for index, run in enumerate(runs)
        if len(run) == len(kinds) and all(isinstance(op, kind) for op, kind in zip(run, kinds, strict=True))
    ]
