"""What "best" means."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from vivace.bench.slo import SLO
from vivace.core.errors import ConfigError
from vivace.core.nearest_name import nearest_name
from vivace.optimize.candidate import Candidate
from vivace.optimize.measurement import Forecast, Measurement

ObjectiveName = Literal["latency", "throughput", "goodput", "cost"]
WORDS: dict[ObjectiveName, str] = {
    "throughput": "output tokens a second, all users at once",
    "latency": "time of a whole answer for one user alone",
    "goodput": "requests a second, at random, of which 90% keep the SLO",
    "cost": "output tokens for a second of one core",
}
OFFERED_WORDS: dict[str, str] = {
    "latency": "mean time of a whole answer at {:g} requests a second, at random",
    "goodput": "requests a second that keep the SLO, of {:g} that come at random",
}
LEAST_IDLE = 0.01  # of the time, where more is offered than can be done
UNKEPT = 1e-6  # of goodput: where no rate keeps the SLO, the larger share of good requests is better


def _usual(slo: SLO | None, offered_per_s: float | None) -> ObjectiveName:
    if slo is not None:
        return "goodput"
    return "throughput" if offered_per_s is None else "latency"


@dataclass(frozen=True, slots=True)
class Objective:
    """A score to compare candidates by: larger is better, and twice as large is twice as good. `offered_per_s`:
    latency and goodput are those of so many requests a second that come at random."""

    name: ObjectiveName = "throughput"
    offered_per_s: float | None = None

    @classmethod
    def parse(cls, name: str | None, slo: SLO | None, offered_per_s: float | None = None) -> Objective:
        """Without a name: goodput where there is an SLO; else latency where a rate is offered, else throughput.
        Raises `ConfigError`."""
        if offered_per_s is not None and not 0.0 < offered_per_s < math.inf:
            raise ConfigError(f"a request rate is a number above 0, not {offered_per_s:g}")
        if name is None:
            return cls(_usual(slo, offered_per_s), offered_per_s)
        if name not in get_args(ObjectiveName):
            raise ConfigError(f"unknown objective {name!r}{nearest_name(name, get_args(ObjectiveName))}")
        if name == "goodput" and slo is None:
            raise ConfigError("goodput counts requests that keep an SLO: give one, as in --slo ttft:500,tpot:50")
        if offered_per_s is not None and name not in OFFERED_WORDS:
            raise ConfigError(
                f"{name} is what an engine does at its limit, and --request-rate says what it is asked: leave one, "
                "or take --objective latency"
            )
        return cls(name, offered_per_s)  # type: ignore[arg-type]

    @property
    def words(self) -> str:
        if self.offered_per_s is None:
            return WORDS[self.name]
        return OFFERED_WORDS[self.name].format(self.offered_per_s)

    @property
    def is_at_rates(self) -> bool:
        """Whether candidates must be asked at a rate, or several."""
        return self.name == "goodput" or self.offered_per_s is not None

    def score(self, candidate: Candidate, measured: Measurement) -> float:
        """0: this measurement does not tell."""
        if self.name == "latency":
            latency_ms = measured.single_latency_ms if self.offered_per_s is None else measured.offered_latency_ms
            return 1e3 / latency_ms if latency_ms else 0.0
        if self.name == "goodput":
            if measured.good_rate_per_s is None:
                return 0.0  # no rates were swept: a closed loop keeps other objectives
            return measured.goodput_per_s or UNKEPT * (1e-3 + (measured.good_share or 0.0))
        return measured.tokens_per_s / (candidate.num_threads or 1 if self.name == "cost" else 1)

    def promise(self, candidate: Candidate, expected: Forecast) -> float:
        """The score that a forecast gives; of goodput, throughput is what can be foreseen. At an offered rate the
        time of an answer grows as that of a queue does with the load."""
        if self.name == "latency":
            load = (self.offered_per_s or 0.0) * expected.answer_len / expected.tokens_per_s
            return 1e3 / expected.single_latency_ms * max(LEAST_IDLE, 1 - load)
        return expected.tokens_per_s / (candidate.num_threads or 1 if self.name == "cost" else 1)

    def column(self, measured: Measurement) -> tuple[str, str] | None:
        """The name of a table's column for what only rates tell, and what it says of a candidate."""
        if self.name == "goodput":
            return "good req/s", f"{measured.goodput_per_s or 0.0:,.1f}"
        if self.offered_per_s is None:
            return None
        latency_ms = measured.offered_latency_ms
        return f"ms at {self.offered_per_s:g}/s", "" if latency_ms is None else f"{latency_ms:,.1f}"

    def shown(self, score: float) -> str:
        """With its unit."""
        if self.name == "latency":
            return f"{1e3 / score:.1f} ms" if score > 0 else "never"
        unit = {"throughput": "tok/s", "goodput": "good req/s", "cost": "tok/core-s"}[self.name]
        return f"{score:,.0f} {unit}" if score >= 100 else f"{score:.3g} {unit}"
