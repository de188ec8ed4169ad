"""What "best" means."""

from __future__ import annotations

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
UNKEPT = 1e-6  # of goodput: where no rate keeps the SLO, the larger share of good requests is better


@dataclass(frozen=True, slots=True)
class Objective:
    """A score to compare candidates by: larger is better, and twice as large is twice as good."""

    name: ObjectiveName = "throughput"

    @classmethod
    def parse(cls, name: str | None, slo: SLO | None) -> Objective:
        """Without a name: goodput where there is an SLO, else throughput. Raises `ConfigError`."""
        if name is None:
            return cls("throughput" if slo is None else "goodput")
        if name not in get_args(ObjectiveName):
            raise ConfigError(f"unknown objective {name!r}{nearest_name(name, get_args(ObjectiveName))}")
        if name == "goodput" and slo is None:
            raise ConfigError("goodput counts requests that keep an SLO: give one, as in --slo ttft:500,tpot:50")
        return cls(name)  # type: ignore[arg-type]

    @property
    def words(self) -> str:
        return WORDS[self.name]

    def score(self, candidate: Candidate, measured: Measurement) -> float:
        """0: this measurement does not tell."""
        if self.name == "latency":
            return 1e3 / measured.single_latency_ms
        if self.name == "goodput":
            if measured.good_rate_per_s is None:
                return 0.0  # no rates were swept: a closed loop keeps other objectives
            return measured.goodput_per_s or UNKEPT * (1e-3 + (measured.good_share or 0.0))
        return measured.tokens_per_s / (candidate.num_threads or 1 if self.name == "cost" else 1)

    def promise(self, candidate: Candidate, expected: Forecast) -> float:
        """The score that a forecast gives; of goodput, throughput is what can be foreseen."""
        if self.name == "latency":
            return 1e3 / expected.single_latency_ms
        return expected.tokens_per_s / (candidate.num_threads or 1 if self.name == "cost" else 1)

    def shown(self, score: float) -> str:
        """With its unit."""
        if self.name == "latency":
            return f"{1e3 / score:.1f} ms" if score > 0 else "never"
        unit = {"throughput": "tok/s", "goodput": "good req/s", "cost": "tok/core-s"}[self.name]
        return f"{score:,.0f} {unit}" if score >= 100 else f"{score:.3g} {unit}"
