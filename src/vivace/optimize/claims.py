"""What is often said of these techniques, beside what was measured here."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from vivace.models.spec import ModelSpec
from vivace.optimize.candidate import Candidate
from vivace.optimize.interval import ratio_interval
from vivace.optimize.ladder import Ladder, quickness, throughput
from vivace.optimize.trials import Trials

BATCH = 8


@dataclass(frozen=True, slots=True)
class Claim:
    """`measured` None: not measured, and `remark` says why."""

    words: str
    low: float
    high: float
    measured: float | None
    remark: str = ""
    smaller_is_better: bool = False

    @property
    def claimed(self) -> str:
        return f"{self.low:g} to {self.high:g}x"

    @property
    def verdict(self) -> str:
        if self.measured is None:
            return "not measured"
        if self.low <= self.measured <= self.high:
            return "holds here"
        exceeds = (self.measured < self.low) == self.smaller_is_better
        return "better here" if exceeds else "not here"


def claims(trials: Trials, ladder: Ladder, spec: ModelSpec | None, best: Candidate | None) -> list[Claim]:
    """In the order in which the ladder takes its techniques."""
    return [*_sizes(trials, ladder), _batch(trials, ladder), *_attention(spec), *_speeds(trials, ladder, best)]


def batch_of_eight(naive: Candidate) -> Candidate:
    """The naive baseline, but in static batches of eight."""
    return replace(naive, max_num_seqs=BATCH)


def _sizes(trials: Trials, ladder: Ladder) -> Iterator[Claim]:
    wide = trials.measurement(ladder.naive)
    for quantization, words, low, high in (
        ("int8", "8-bit weights are 2 to 4 times smaller", 2, 4),
        ("int4", "4-bit weights are 4 to 8 times smaller", 4, 8),
    ):
        sizes = [
            measured.weight_bytes
            for one in trials.runs
            if one.quantization == quantization
            and one.speculation is None
            and (measured := trials.measurement(one)) is not None
        ]
        ratio = wide.weight_bytes / sizes[0] if sizes and wide else None
        start = "32" if ladder.naive.quantization == "f32" else "16"
        remark = f"from {start}-bit weights, scales included" if ratio else f"no run with {quantization} weights"
        yield Claim(words, low, high, ratio, remark)


def _batch(trials: Trials, ladder: Ladder) -> Claim:
    words = "a batch of 8 takes 2 to 3 times as long as one request"
    measured = trials.measurement(batch_of_eight(ladder.naive))
    one = trials.measurement(ladder.naive)
    if measured is None or one is None:
        return Claim(words, 2, 3, None, "there was no time for it", smaller_is_better=True)
    ratio = BATCH * one.requests_per_s / measured.requests_per_s
    return Claim(words, 2, 3, ratio, "static batches of 8, the naive baseline's weights", smaller_is_better=True)


def _attention(spec: ModelSpec | None) -> Iterator[Claim]:
    if spec is not None:
        ratio = spec.num_heads / spec.num_kv_heads
        remark = f"{spec.num_heads} heads share the keys and values of {spec.num_kv_heads}"
        yield Claim("grouped queries make the cache 4 to 8 times smaller", 4, 8, ratio, remark)


def _speeds(trials: Trials, ladder: Ladder, best: Candidate | None) -> Iterator[Claim]:
    guesses = [
        trials.ratio(rung.on_top, rung.below, quickness).value
        for rung in ladder.rungs(trials)
        if rung.on_top.speculation is not None and rung.measured is not None
    ]
    remark = "one user, sampled text, on top of the ladder" if guesses else "it was not tried"
    yield Claim("speculation is 2 to 3 times faster", 2, 3, max(guesses, default=None), remark)
    yield _fused(trials, best)
    together = None
    if best is not None:
        top, bottom = trials.measurement(best), trials.measurement(ladder.naive)
        together = None if top is None or bottom is None else throughput(top) / throughput(bottom)
    yield Claim("all together bring 5 to 10 times the throughput", 5, 10, together, "naive to the pick")


def _fused(trials: Trials, best: Candidate | None) -> Claim:
    words = "fused kernels bring 20 to 50%"
    found = None if best is None else trials.fusion(best)
    if found is None:
        return Claim(words, 1.2, 1.5, None, "there was no time for it")
    if not found.ratios:
        return Claim(words, 1.2, 1.5, None, "it is measured on processors alone")
    ratio = ratio_interval(found.ratios)
    shape = f"{found.num_streams} streams at {found.depth} tokens of context"
    remark = (
        f"at least ({ratio}): a decode step with a 16-bit cache, {shape}, beside one with attention in three passes"
    )
    return Claim(words, 1.2, 1.5, ratio.value, remark)
