"""Where a step's time goes: groups of operations beside the ceilings that bind them, and what is no kernel's."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from vivace.bench.ceilings import Ceilings, median_of
from vivace.bench.engine_step import EngineOverhead, engine_overhead
from vivace.bench.op_cost import OpCost, numbers_of, op_cost
from vivace.bench.profile_step import Phase, ProfileProgram, profile_program, step_inputs
from vivace.engine.loader import LoadedEngine
from vivace.ops.backend import Float64Array

SHARED_OPERATIONS = 1e5  # about what csrc/op_runner.cpp shares among threads


@dataclass(frozen=True, slots=True)
class Group:
    """Operations of one role in one step. `memory_s` and `arithmetic_s` are what the ceilings allow at best."""

    role: str
    unit: str
    num_ops: int
    seconds: float
    num_bytes: float
    operations: float
    memory_s: float | None
    arithmetic_s: float | None

    @property
    def best_s(self) -> float | None:
        """The least time that the ceilings allow; None where nothing was measured."""
        if self.memory_s is None or self.arithmetic_s is None:
            return None
        return max(self.memory_s, self.arithmetic_s)

    @property
    def bound(self) -> str | None:
        """The ceiling that binds it: `memory` or the arithmetic unit's name."""
        if self.memory_s is None or self.arithmetic_s is None:
            return None
        return "memory" if self.memory_s >= self.arithmetic_s else self.unit

    @property
    def share_of_ceiling(self) -> float | None:
        """1: as fast as the machine allows. Above: the data came from a cache."""
        return None if self.best_s is None or not self.seconds else self.best_s / self.seconds


@dataclass(frozen=True, slots=True)
class PhaseProfile:
    """One phase. The seconds of `groups` and `between_s` add up to `timed_s`, the step with a clock read after each
    operation; `step_s` is the same step without."""

    phase: Phase
    groups: tuple[Group, ...]
    between_s: float
    step_s: float
    engine: EngineOverhead
    barrier_s: float | None
    num_barriers: int
    ceilings: Ceilings | None

    @property
    def timed_s(self) -> float:
        return sum(group.seconds for group in self.groups) + self.between_s

    @property
    def num_bytes(self) -> float:
        return sum(group.num_bytes for group in self.groups)

    @property
    def operations(self) -> float:
        return sum(group.operations for group in self.groups)

    @property
    def tokens_per_s(self) -> float:
        """Of the engine: with what Python adds to a step."""
        return self.phase.shape.num_tokens / (self.step_s + self.engine.total_s)

    def record(self) -> dict[str, Any]:
        """For JSON. Times in milliseconds of one step."""
        return {
            "phase": asdict(self.phase),
            "step_ms": 1e3 * self.step_s,
            "timed_ms": 1e3 * self.timed_s,
            "between_ms": 1e3 * self.between_s,
            "python_ms": 1e3 * self.engine.python_s,
            "sampling_ms": 1e3 * self.engine.sampling_s,
            "barrier_us": None if self.barrier_s is None else 1e6 * self.barrier_s,
            "num_barriers": self.num_barriers,
            "tokens_per_s": self.tokens_per_s,
            "gb_per_s": self.num_bytes / self.step_s / 1e9,
            "gop_per_s": self.operations / self.step_s / 1e9,
            "ceilings": None if self.ceilings is None else asdict(self.ceilings),
            "groups": [_group_record(group, self.timed_s) for group in self.groups],
        }


def profile(
    loaded: LoadedEngine,
    phases: list[Phase],
    *,
    repeats: int,
    clock: Callable[[], float],
    probe: Callable[[], Ceilings] | None,
    barrier: Callable[[], float] | None,
    progress: Callable[[int, int], None] | None = None,
) -> list[PhaseProfile]:
    """Measure each phase: timed and plain steps in turn, ceilings before and after. A phase of many tokens takes a
    fifth of the repeats. `progress(done, total)` counts phases."""
    program = profile_program(loaded, phases)
    profiles = []
    for index, phase in enumerate(phases):
        count = repeats if phase.num_new == 1 else max(3, repeats // 5)
        profiles.append(_profile_phase(loaded, program, phase, count, clock, probe, barrier))
        if progress is not None:
            progress(index + 1, len(phases))
    return profiles


def _profile_phase(
    loaded: LoadedEngine,
    program: ProfileProgram,
    phase: Phase,
    repeats: int,
    clock: Callable[[], float],
    probe: Callable[[], Ceilings] | None,
    barrier: Callable[[], float] | None,
) -> PhaseProfile:
    inputs = step_inputs(phase, loaded.kv_spec.block_size, loaded.spec.vocab_size)
    program.executable.run(inputs)
    probes = [probe()] if probe is not None else []
    timed, plain = [], []
    for _ in range(repeats):
        timed.append(program.executable.run_timed(inputs))
        started = clock()
        program.executable.run(inputs)
        loaded.backend.synchronize()
        plain.append(clock() - started)
    if probe is not None:
        probes.append(probe())
    ceilings = median_of(probes) if probes else None
    numbers = numbers_of(loaded.backend.name)
    costs = [op_cost(op, phase.shape, loaded.kv_spec, numbers) for op in program.ops]
    seconds = middle_mean(np.array(timed))
    groups = group_ops(costs, seconds[:-1], ceilings)
    return PhaseProfile(
        phase=phase,
        groups=groups,
        between_s=float(seconds[-1]),
        step_s=statistics.median(plain),
        engine=engine_overhead(loaded, program, phase, clock),
        barrier_s=None if barrier is None else barrier(),
        num_barriers=sum(cost.operations >= SHARED_OPERATIONS for cost in costs),
        ceilings=ceilings,
    )


def middle_mean(timed_RN: Float64Array) -> Float64Array:
    """Seconds of each of N operations: the mean over the middle half of R runs by their totals. The sum of the result
    is that of real steps, and a step that the machine was kept from does not count."""
    order = np.argsort(timed_RN.sum(axis=1), kind="stable")
    drop = len(order) // 4
    mean: Float64Array = timed_RN[order[drop : len(order) - drop]].mean(axis=0)
    return mean


def group_ops(costs: list[OpCost], seconds: Float64Array, ceilings: Ceilings | None) -> tuple[Group, ...]:
    """Sums by role, the slowest first."""
    roles: dict[tuple[str, str], list[int]] = {}
    for index, cost in enumerate(costs):
        roles.setdefault((cost.role, cost.unit), []).append(index)
    groups = []
    for (role, unit), members in roles.items():
        num_bytes = sum(costs[index].num_bytes for index in members)
        operations = sum(costs[index].operations for index in members)
        memory_s = arithmetic_s = None
        if ceilings is not None:
            unit = unit if unit in ceilings.gop_per_s else "f32"  # an instruction set without it computes in float32
            memory_s = num_bytes / ceilings.read_gb_per_s / 1e9
            arithmetic_s = operations / ceilings.gop_per_s[unit] / 1e9
        total = float(sum(seconds[index] for index in members))
        groups.append(Group(role, unit, len(members), total, num_bytes, operations, memory_s, arithmetic_s))
    return tuple(sorted(groups, key=lambda group: -group.seconds))


def _group_record(group: Group, timed_s: float) -> dict[str, Any]:
    return {
        "role": group.role,
        "num_ops": group.num_ops,
        "ms": 1e3 * group.seconds,
        "share": group.seconds / timed_s,
        "bytes": group.num_bytes,
        "operations": group.operations,
        "gb_per_s": group.num_bytes / group.seconds / 1e9,
        "gop_per_s": group.operations / group.seconds / 1e9,
        "bound": group.bound,
        "share_of_ceiling": group.share_of_ceiling,
    }
