"""From timelines to the field's figures. TTFT, ITL, TPOT, E2EL are four different things:

TTFT: arrival to first token. ITL: gap between two tokens of a stream. E2EL: arrival to last token.
TPOT: (E2EL - TTFT) / (output tokens - 1), one figure a stream.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from vivace.bench.percentiles import percentiles
from vivace.bench.timeline import Timeline


@dataclass(frozen=True, slots=True)
class Spread:
    """How samples lie. Percentiles as `percentiles` defines them."""

    median: float
    minimum: float
    maximum: float
    p90: float
    p99: float
    count: int


@dataclass(frozen=True, slots=True)
class Rates:
    """Speeds of one run. Prefill lasts until the last stream has its first token; decode is what follows, all
    streams together (None with one token a stream: there is no decode)."""

    prefill_tokens_per_s: float
    decode_tokens_per_s: float | None
    output_tokens_per_s: float
    requests_per_s: float


def spread(samples: Iterable[float]) -> Spread | None:
    """None without samples."""
    known = list(samples)
    if not known:
        return None
    median, minimum, maximum, p90, p99 = percentiles(known, (0.5, 0.0, 1.0, 0.9, 0.99))
    return Spread(median, minimum, maximum, p90, p99, len(known))


def rates(timeline: Timeline) -> Rates:
    """Tokens and requests a second of one run."""
    streams = timeline.streams
    start = min(stream.arrival for stream in streams)
    prefilled = max(stream.tokens[0] for stream in streams)
    end = max(stream.tokens[-1] for stream in streams)
    num_prompt = timeline.workload.prompt_len * len(streams)
    num_output = sum(len(stream.tokens) for stream in streams)
    num_after = sum(sum(moment > prefilled for moment in stream.tokens) for stream in streams)
    return Rates(
        prefill_tokens_per_s=num_prompt / (prefilled - start),
        decode_tokens_per_s=num_after / (end - prefilled) if num_after else None,
        output_tokens_per_s=num_output / (end - start),
        requests_per_s=len(streams) / (end - start),
    )


def ttft_ms(timelines: Iterable[Timeline]) -> Spread | None:
    return spread(1e3 * (stream.tokens[0] - stream.arrival) for line in timelines for stream in line.streams)


def itl_ms(timelines: Iterable[Timeline]) -> Spread | None:
    return spread(
        1e3 * (later - earlier)
        for line in timelines
        for stream in line.streams
        for earlier, later in zip(stream.tokens, stream.tokens[1:], strict=False)
    )


def tpot_ms(timelines: Iterable[Timeline]) -> Spread | None:
    return spread(
        1e3 * (stream.tokens[-1] - stream.tokens[0]) / (len(stream.tokens) - 1)
        for line in timelines
        for stream in line.streams
        if len(stream.tokens) > 1
    )


def e2el_ms(timelines: Iterable[Timeline]) -> Spread | None:
    return spread(1e3 * (stream.tokens[-1] - stream.arrival) for line in timelines for stream in line.streams)
