"""A machine as the model sees it: how fast it reads and computes at most, and how near kernels come to that."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from vivace.core.errors import ConfigError
from vivace.plan.layout import FP8
from vivace.plan.weights import MachineKind

# What a type computes in where the machine has no unit for it.
FALLBACKS = {"bf16": ("f16", "f32"), "f16": ("bf16", "f32"), "fp8": ("bf16", "f16"), "int8": ("bf16", "f16", "f32")}


@dataclass(frozen=True, slots=True)
class RateCurve:
    """Operations a second by rows, measured; between measured points in proportion, beyond them level."""

    rows: tuple[int, ...]
    operations_per_s: tuple[float, ...]

    def at(self, rows: float) -> float:
        index = bisect_left(self.rows, rows)
        if index == 0:
            return self.operations_per_s[0]
        if index == len(self.rows):
            return self.operations_per_s[-1]
        low, high = self.rows[index - 1], self.rows[index]
        share = (rows - low) / (high - low)
        return self.operations_per_s[index - 1] * (1 - share) + self.operations_per_s[index] * share

    def times(self, factor: float) -> RateCurve:
        """All rates so many times as high."""
        return RateCurve(self.rows, tuple(factor * rate for rate in self.operations_per_s))


@dataclass(frozen=True, slots=True)
class WidthRates:
    """Curves by the width of the matrices, narrow first: narrow ones are slower, because beside each product lies
    work in proportion to its inputs and outputs. Between two widths seconds go in proportion to 1 / width."""

    widths: tuple[int, ...]
    curves: tuple[RateCurve, ...]

    def at_width(self, width: float) -> RateCurve:
        index = bisect_left(self.widths, width)
        if index == 0 or index == len(self.widths):
            return self.curves[min(index, len(self.curves) - 1)]
        low, high = self.widths[index - 1], self.widths[index]
        share = (1 / low - 1 / width) / (1 / low - 1 / high)
        below, above = self.curves[index - 1], self.curves[index]
        rows = tuple(sorted({*below.rows, *above.rows}))
        return RateCurve(rows, tuple(1 / ((1 - share) / below.at(n) + share / above.at(n)) for n in rows))

    def times(self, factor: float) -> WidthRates:
        """All rates so many times as high."""
        return WidthRates(self.widths, tuple(curve.times(factor) for curve in self.curves))


@dataclass(frozen=True, slots=True, eq=False)
class Efficiency:
    """How near the ceilings a step comes, and what it costs beside them. Rates and shares by layout; "" is any other.

    `basis` says in words whether that is measured or assumed. A product takes the 4-norm of the time to read
    its weights and the time to compute, so that near the ridge it takes longer than either (`overlap` is the norm's
    exponent). `rates` and `attention_rates` (by tokens of a sequence in the step) replace the share of the peak.
    """

    basis: str
    checked: str = ""  # how far predictions were from measured steps, in words, where both exist
    is_measured: bool = False
    bandwidth: Mapping[str, float] = field(default_factory=lambda: {"": 0.8})
    kv_bandwidth: float = 0.7
    arithmetic: float = 0.6
    attention_arithmetic: float = 0.4
    overlap: float = 4.0
    rates: Mapping[str, WidthRates] = field(default_factory=dict)
    attention_rates: Mapping[str, RateCurve] = field(default_factory=dict)
    row_share: float = 0.8  # of the read rate, at which rows between products are read and written
    row_bytes_per_s: float | None = None  # the same, measured: in caches it has little to do with memory
    step_s: float = 300e-6  # the engine's own work for a step
    op_s: float = 2e-6  # start and end of an operation
    product_op_s: float = 2e-6  # of a product
    attention_keys: float = 16  # computed for each query beside those that count: blocks are padded
    # By cache type: query heads that shared a head of keys where `attention_rates` of one token were measured, and
    # the share of the time that goes to the keys alone, times that number.
    attention_groups: Mapping[str, tuple[int, float]] = field(default_factory=dict)
    sequence_s: float = 2e-6  # the engine's own work for a sequence in a step
    logit_s: float = 1e-10  # sampling
    # A request's arrival: checks, the hashes of its blocks, its place in the batch; by request and by prompt token.
    admission_s: float = 100e-6
    admission_token_s: float = 0.4e-6
    wake_s: float = 0.0  # that the first steps after a pause take longer: caches and cores have gone cold
    threads: Mapping[int, tuple[float, float]] = field(default_factory=dict)  # shares that fewer threads reach

    def at_clock(self, ratio: float) -> Efficiency:
        """The same with cores that run `ratio` times as fast: what was measured in seconds of arithmetic moves."""
        return replace(
            self,
            rates={layout: rates.times(ratio) for layout, rates in self.rates.items()},
            attention_rates={dtype: curve.times(ratio) for dtype, curve in self.attention_rates.items()},
            row_bytes_per_s=None if self.row_bytes_per_s is None else self.row_bytes_per_s * ratio,
            step_s=self.step_s / ratio,
            op_s=self.op_s / ratio,
            product_op_s=self.product_op_s / ratio,
            sequence_s=self.sequence_s / ratio,
            logit_s=self.logit_s / ratio,
            admission_s=self.admission_s / ratio,
            admission_token_s=self.admission_token_s / ratio,
        )


@dataclass(frozen=True, slots=True, eq=False)
class Machine:
    """`memory_bytes` holds weights, cache and workspace; `operations_per_s` are dense peaks by type of number, a
    multiplication and an addition being two. `source` names the data sheet, or says that it was measured.

    Machines are equal when they are the same object: predictions remember what they worked out for one.
    """

    name: str
    title: str
    kind: MachineKind
    memory_bytes: int
    read_bytes_per_s: float
    operations_per_s: Mapping[str, float]
    source: str
    efficiency: Efficiency
    tdp_w: float | None = None
    cache_bytes: int = 0
    num_cores: int | None = None
    usable_memory: float = 0.9
    caveat: str = ""  # why Vivace does not serve on it today
    runtime_bytes: int = 300_000_000  # of the process before any weight; on a GPU of its context

    def __post_init__(self) -> None:
        if not (self.memory_bytes > 0 and self.read_bytes_per_s > 0 and self.operations_per_s):
            raise ConfigError(f"machine {self.name} needs memory, a read rate and at least one arithmetic peak")

    def unit(self, layout: str) -> str:
        """The type of number in which a product with weights of `layout` is computed."""
        if layout == FP8:
            wanted = "fp8"
        elif layout in ("f32", "f16", "bf16"):
            wanted = "f32" if self.kind == "cpu" and layout == "f16" else layout
        elif self.kind == "cpu" or layout == "int8_channel":
            wanted = "int8"  # activations are rounded to int8 too
        else:
            wanted = "bf16"  # on GPUs other codes are unpacked to 16 bits
        return self._known(wanted)

    def peak(self, layout: str) -> float:
        """Operations a second at most with weights of `layout`."""
        return self.operations_per_s[self.unit(layout)]

    def with_threads(self, num_threads: int | None) -> tuple[float, float]:
        """(share of the arithmetic, share of the read rate) that so many threads reach: between measured numbers in
        proportion. Where none was measured two threads or a third of the cores, whichever is more, are assumed to
        read as fast as all."""
        if num_threads is None or self.num_cores is None or num_threads >= self.num_cores:
            return 1.0, 1.0
        measured = self.efficiency.threads
        if not measured:
            return num_threads / self.num_cores, min(1.0, num_threads / max(2.0, self.num_cores / 3))
        counts = (*sorted(measured), self.num_cores)
        compute, read = (
            RateCurve(counts, (*(measured[count][part] for count in counts[:-1]), 1.0)).at(num_threads)
            for part in (0, 1)
        )
        return compute, read

    def _known(self, unit: str) -> str:
        if unit in self.operations_per_s:
            return unit
        candidates = (*FALLBACKS.get(unit, ()), *self.operations_per_s)
        return next(name for name in candidates if name in self.operations_per_s)
