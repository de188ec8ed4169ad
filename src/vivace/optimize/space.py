"""What may vary for this model on this machine, and what may not, with the reason."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product
from math import prod
from typing import Any

from vivace.core.speculation import SpeculativeConfig
from vivace.core.step_size import CPU_TOKENS_A_STEP, usual_tokens_a_step
from vivace.ops.backend import KV_CODE_BITS, KV_UNIT, MAX_CODED_HEAD_DIM
from vivace.optimize.candidate import Candidate

SEQS = (1, 4, 16, 32, 64, 128, 256)
TOKENS_A_STEP = (64, 128, 256, 512, 1024, 2048)
TOKENS_A_GPU_STEP = (*TOKENS_A_STEP[2:], 4096, 8192)  # fewer leave most of a GPU idle
BLOCK_SIZES = (16, 32, 64)
GUESSES = (2, 4, 8)
# A model of the machine knows nothing of the first, and of the others only what depends on the text: runs tell.
UNFORESEEN = ("block_size", "enable_prefix_caching", "speculation")
MAX_FLOAT32_BYTES = 8 << 30  # 32-bit weights of a larger model measure patience
FLOAT32_BYTES_A_SECOND = 10e6  # of the time budget: loading and reading more of them leaves none for the search


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the space depends on. `num_threads`: those that the machine leaves to this process; None on a
    GPU, where threads decide nothing."""

    is_float: bool  # the checkpoint's matrices are not quantised yet
    num_parameters: int
    head_dim: int
    num_threads: int | None
    users: int  # requests that the workload has under way at once, at most
    longest_tokens: int  # of a request, its answer included
    drafts: tuple[SpeculativeConfig, ...] = ()  # methods that go with this model
    has_quality: bool = True
    fixed_threads: int | None = None
    seconds: float = math.inf  # the time budget


@dataclass(frozen=True, slots=True)
class Exclusion:
    """A value that is not tried, and why."""

    axis: str
    value: str
    reason: str


@dataclass(frozen=True, slots=True)
class Space:
    """Axes are fields of `Candidate`, their values from the mildest to the boldest. `on_gpu`: of a GPU."""

    axes: dict[str, tuple[Any, ...]]
    exclusions: tuple[Exclusion, ...] = ()
    on_gpu: bool = False

    def candidates(self, *, foreseeable: bool = False) -> Iterator[Candidate]:
        """All of them, in a fixed order; `foreseeable`: those that a forecast tells apart, other axes at their
        mildest."""
        axes = {
            name: values[:1] if foreseeable and name in UNFORESEEN else values for name, values in self.axes.items()
        }
        for values in product(*axes.values()):
            candidate = Candidate(**dict(zip(axes, values, strict=True)))
            if is_sound(candidate):
                yield candidate

    @property
    def size(self) -> int:
        """Combinations, unsound ones included."""
        return prod(len(values) for values in self.axes.values())

    def neighbours(self, candidate: Candidate) -> list[Candidate]:
        """One value changed: to the next one each way on an ordered axis, to any other one elsewhere."""
        found = []
        for axis, values in self.axes.items():
            for value in _adjacent(values, getattr(candidate, axis)):
                changed = replace(candidate, **{axis: value})
                if axis == "max_num_seqs" and value > changed.max_num_batched_tokens:
                    changed = replace(changed, max_num_batched_tokens=self._least_budget(value))
                if is_sound(changed):
                    found.append(changed)
        return found

    def _least_budget(self, max_num_seqs: int) -> int:
        budgets: tuple[int, ...] = self.axes["max_num_batched_tokens"]
        return min(value for value in budgets if value >= max_num_seqs)


def is_sound(candidate: Candidate) -> bool:
    """Whether its values go together."""
    if candidate.max_num_batched_tokens < candidate.max_num_seqs:
        return False  # every running sequence needs a token a step
    return candidate.kv_cache_dtype not in KV_CODE_BITS or candidate.block_size % KV_UNIT == 0


def naive(surroundings: Surroundings) -> Candidate:
    """Where everybody begins: 32-bit weights (of 16 bits where there is no time for them), one request at a time,
    nothing kept, nothing guessed."""
    most = min(MAX_FLOAT32_BYTES, FLOAT32_BYTES_A_SECOND * surroundings.seconds)
    wide = surroundings.is_float and 4 * surroundings.num_parameters <= most
    return Candidate(
        quantization="f32" if wide else "bf16" if surroundings.is_float else "auto",
        kv_cache_dtype="f32" if wide else "bf16",
        max_num_seqs=1,
        max_num_batched_tokens=max(CPU_TOKENS_A_STEP, surroundings.longest_tokens),
        enable_prefix_caching=False,
        num_threads=surroundings.fixed_threads or surroundings.num_threads,
        batching="static",
    )


def usual(space: Space) -> Candidate:
    """What `vivace serve` does when it is not told more: weights and cache as wide as stored, everybody at once."""
    values = {axis: choices[0] for axis, choices in space.axes.items()}
    seqs = values["max_num_seqs"] = space.axes["max_num_seqs"][-1]
    budgets = space.axes["max_num_batched_tokens"]
    tokens = usual_tokens_a_step(on_gpu=space.on_gpu, max_num_seqs=seqs)
    values["max_num_batched_tokens"] = next((value for value in budgets if value >= tokens), budgets[-1])
    return Candidate(**values)


def make_space(surroundings: Surroundings) -> Space:
    """The axes for a model, a machine and a workload."""
    exclusions: list[Exclusion] = []
    axes: dict[str, tuple[Any, ...]] = {
        "quantization": _weights(surroundings, exclusions),
        "kv_cache_dtype": _caches(surroundings, exclusions),
        "max_num_seqs": _seqs(surroundings, exclusions),
        "max_num_batched_tokens": TOKENS_A_STEP if surroundings.num_threads else TOKENS_A_GPU_STEP,
        "block_size": BLOCK_SIZES,
        "enable_prefix_caching": (True, False),
        "speculation": _speculations(surroundings, exclusions),
        "num_threads": _threads(surroundings),
    }
    return Space(axes, tuple(exclusions), on_gpu=surroundings.num_threads is None)


def _weights(surroundings: Surroundings, exclusions: list[Exclusion]) -> tuple[str, ...]:
    if surroundings.is_float:
        return ("bf16", "llm_int8", "int8", "w8a8", "int4")
    reason = "the checkpoint is quantised already, and its matrices stay as they are"
    exclusions.append(Exclusion("quantization", "f32 to int4", reason))
    return ("auto",)


def _caches(surroundings: Surroundings, exclusions: list[Exclusion]) -> tuple[str, ...]:
    coded = ("int8_per_token_head", "int4_k_per_channel", "int4_per_token_head")
    if surroundings.head_dim <= MAX_CODED_HEAD_DIM:
        return ("bf16", *coded)
    reason = f"heads of {surroundings.head_dim} dimensions; coded caches take {MAX_CODED_HEAD_DIM} at most"
    exclusions.extend(Exclusion("kv_cache_dtype", name, reason) for name in coded)
    return ("bf16",)


def _seqs(surroundings: Surroundings, exclusions: list[Exclusion]) -> tuple[int, ...]:
    """Up to the first value that takes every user at once: a larger one runs the same."""
    enough = next((value for value in SEQS if value >= surroundings.users), SEQS[-1])
    exclusions.extend(
        Exclusion("max_num_seqs", str(value), f"the workload has {surroundings.users} users at most")
        for value in SEQS
        if value > enough
    )
    return tuple(value for value in SEQS if value <= enough)


def _speculations(surroundings: Surroundings, exclusions: list[Exclusion]) -> tuple[SpeculativeConfig | None, ...]:
    if not surroundings.has_quality:
        reason = "random weights write text that nobody guesses"
        exclusions.append(Exclusion("speculation", "any", reason))
        return (None,)
    methods = surroundings.drafts
    if not any(one.method == "draft_model" for one in methods):
        exclusions.append(Exclusion("speculation", "draft_model", "no draft model with this vocabulary was named"))
    guesses = [replace(one, num_speculative_tokens=count) for one in methods for count in GUESSES]
    return (None, *guesses)


def _threads(surroundings: Surroundings) -> tuple[int | None, ...]:
    """All cores first, then half of them: few rows are bound by barriers, not by arithmetic."""
    if surroundings.num_threads is None:
        return (None,)
    if surroundings.fixed_threads is not None:
        return (surroundings.fixed_threads,)
    most = surroundings.num_threads
    return (most, max(1, most // 2)) if most > 1 else (1,)


def _adjacent(values: tuple[Any, ...], value: object) -> list[Any]:
    if not values or not isinstance(values[0], int) or isinstance(values[0], bool):
        return [other for other in values if other != value]
    if value not in values:
        return list(values)
    place = values.index(value)
    return [*values[max(0, place - 1) : place], *values[place + 1 : place + 2]]
