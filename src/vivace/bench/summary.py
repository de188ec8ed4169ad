"""From the records of a run to the field's figures: what `vivace bench serve` prints and `vivace optimize` judges."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from vivace.bench.generator_health import LATE_S, GeneratorHealth, GeneratorLoad
from vivace.bench.latency import Latency
from vivace.bench.records import RequestRecord, ServerSample
from vivace.bench.server_summary import MemoryParts, ServerSummary, summarise_server
from vivace.bench.slo import SLO
from vivace.bench.statistics import Distribution, Estimate, distribution, share

NUM_REASONS = 5  # kinds of error that are kept with their count


@dataclass(frozen=True, slots=True)
class Summary:
    """One run. Latencies are those of requests that were answered whole (`num_ok`); None without one.

    Throughput counts every token that came, over the time from the first request's due moment to the last one's end.
    """

    num_requests: int
    num_ok: int
    num_refused: int
    num_cancelled: int
    num_errors: int
    reasons: dict[str, int]  # kinds of refusals and errors, the most frequent first
    duration_s: float
    requests_per_s: float
    prompt_tokens_per_s: float
    output_tokens_per_s: float
    tokens_per_arrival: float | None  # above 1 where several tokens come together
    ttft_ms: Distribution | None
    itl_ms: Distribution | None
    tpot_ms: Distribution | None
    e2el_ms: Distribution | None
    queue_ms: Distribution | None
    slo: SLO | None
    goodput_per_s: float | None  # requests a second that keep every bound
    goodput_share: Estimate | None  # of those that were not cancelled; refusals and errors are not good
    generator: GeneratorHealth
    server: ServerSummary

    def record(self) -> dict[str, object]:
        """For JSON and the store. Latencies: see `Distribution.record`."""
        plain = {name: getattr(self, name) for name in _PLAIN}
        latencies = {name: getattr(self, name) for name in LATENCIES}
        return {
            **plain,
            **{name: None if one is None else one.record() for name, one in latencies.items()},
            "slo": None if self.slo is None else str(self.slo),
            "goodput_per_s": self.goodput_per_s,
            "goodput_share": None if self.goodput_share is None else self.goodput_share.value,
            "goodput_share_interval": _interval(self.goodput_share),
            "generator": self.generator.record(),
            "server": self.server.record(),
        }


_PLAIN = (
    "num_requests",
    "num_ok",
    "num_refused",
    "num_cancelled",
    "num_errors",
    "reasons",
    "duration_s",
    "requests_per_s",
    "prompt_tokens_per_s",
    "output_tokens_per_s",
    "tokens_per_arrival",
)
LATENCIES = ("ttft_ms", "itl_ms", "tpot_ms", "e2el_ms", "queue_ms")


def summarise(
    records: Sequence[RequestRecord],
    samples: Sequence[ServerSample],
    slo: SLO | None = None,
    seed: int = 0,
    *,
    load: GeneratorLoad | None = None,
    memory: MemoryParts | None = None,
) -> Summary:
    """Figures of one run; the same records and seed give the same ones."""
    counts = Counter(record.status for record in records)
    answered = [record for record in records if record.status == "ok"]
    latencies = [Latency.of(record) for record in answered]
    duration_s = _duration_s(records)
    num_good = sum(latency.keeps(slo) for latency in latencies) if slo is not None else None
    num_arrivals = sum(len(latency.gaps_ms) + (latency.ttft_ms is not None) for latency in latencies)
    num_tokens = sum(record.output_len for record in answered)
    num_stayed = len(records) - counts["cancelled"]
    return Summary(
        num_requests=len(records),
        num_ok=counts["ok"],
        num_refused=counts["refused"],
        num_cancelled=counts["cancelled"],
        num_errors=counts["error"],
        reasons=_reasons(records),
        duration_s=duration_s,
        requests_per_s=_rate(len(answered), duration_s),
        prompt_tokens_per_s=_rate(sum(record.prompt_len for record in answered), duration_s),
        output_tokens_per_s=_rate(sum(record.output_len for record in records), duration_s),
        tokens_per_arrival=num_tokens / num_arrivals if num_arrivals else None,
        ttft_ms=_single([latency.ttft_ms for latency in latencies], seed),
        itl_ms=distribution([latency.gaps_ms for latency in latencies], seed),
        tpot_ms=_single([latency.tpot_ms for latency in latencies], seed),
        e2el_ms=_single([latency.e2el_ms for latency in latencies], seed),
        queue_ms=_single([latency.queue_ms for latency in latencies], seed),
        slo=slo,
        goodput_per_s=None if num_good is None else _rate(num_good, duration_s),
        goodput_share=share(num_good, num_stayed) if num_good is not None and num_stayed else None,
        generator=_generator(records, load),
        server=summarise_server(records, samples, memory),
    )


def _reasons(records: Sequence[RequestRecord]) -> dict[str, int]:
    """What stands before an error's first colon says its kind; behind it are its own numbers and names."""
    kinds = Counter(record.error.partition(":")[0] for record in records if record.error)
    return dict(kinds.most_common(NUM_REASONS))


def _duration_s(records: Sequence[RequestRecord]) -> float:
    if not records:
        return 0.0
    return max(record.ended_s for record in records) - min(record.intended_s for record in records)


def _rate(amount: float, duration_s: float) -> float:
    return amount / duration_s if duration_s > 0 else 0.0


def _single(values: Sequence[float | None], seed: int) -> Distribution | None:
    return distribution([(value,) for value in values if value is not None], seed)


def _generator(records: Sequence[RequestRecord], load: GeneratorLoad | None) -> GeneratorHealth:
    lags = [record.sent_s - record.intended_s for record in records]
    spread = distribution([(1e3 * lag,) for lag in lags])
    return GeneratorHealth(
        send_lag_p50_ms=None if spread is None else spread.p50.value,
        send_lag_p99_ms=None if spread is None else spread.p99.value,
        send_lag_max_ms=None if spread is None else spread.max,
        late_share=sum(lag > LATE_S for lag in lags) / len(lags) if lags else 0.0,
        load=load,
    )


def _interval(estimate: Estimate | None) -> list[float] | None:
    if estimate is None or estimate.low is None or estimate.high is None:
        return None
    return [estimate.low, estimate.high]
