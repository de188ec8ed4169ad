"""A stored run with all that was kept of it, and its figures: as told at its end, or made from what was left."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from vivace.bench.latency import Latency
from vivace.bench.records import RequestRecord, ServerSample
from vivace.bench.slo import SLO
from vivace.bench.store.result_store import ResultStore
from vivace.bench.store.rows import StoredRun
from vivace.bench.summary import summarise
from vivace.core.errors import ConfigError


@dataclass(frozen=True)
class StoredResult:
    run: StoredRun
    records: tuple[RequestRecord, ...]
    samples: tuple[ServerSample, ...]

    @classmethod
    def read(cls, store: ResultStore, run: int) -> StoredResult:
        return cls(store.run(run), tuple(store.requests(run)), tuple(store.samples(run)))

    @cached_property
    def summary(self) -> dict[str, Any]:
        """As `Summary.record()` gives it. What a run told itself stands (it knew memory and its own load); figures
        that it did not tell come from its records."""
        told = self.run.summary or {}
        if "num_requests" in told or not self.records:
            return told
        return {**summarise(self.records, self.samples, self.slo).record(), **told}

    @property
    def slo(self) -> SLO | None:
        """The objectives that it was held to, as far as they can be read."""
        told = (self.run.summary or {}).get("slo") or self.run.options.get("goodput") or ()
        entries = [told] if isinstance(told, str) else [str(one) for one in told]
        try:
            return SLO.parse(entries) if entries else None
        except ConfigError:
            return None

    @cached_property
    def latencies(self) -> tuple[Latency, ...]:
        """Of the requests that were answered."""
        return tuple(Latency.of(record) for record in self.records if record.status == "ok")

    @property
    def title(self) -> str:
        return f"run {self.run.id}: {self.run.name}"

    @property
    def duration_s(self) -> float:
        return max(
            max((record.ended_s for record in self.records), default=0.0),
            max((sample.time_s for sample in self.samples), default=0.0),
        )


def flat(mapping: dict[str, Any], prefix: str = "") -> Iterable[tuple[str, object]]:
    """Nested settings as names with dots and plain values, without those that were left open."""
    for name, value in mapping.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{name}.")
        elif isinstance(value, list):
            yield f"{prefix}{name}", ", ".join(map(str, value)) or "none"
        elif value is not None:
            yield f"{prefix}{name}", value
