"""What happened when: requests in the server, its KV cache, tokens a second, how long a first token took."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from vivace.bench.latency import Latency
from vivace.bench.records import RequestRecord, ServerSample
from vivace.bench.stored_result import StoredResult
from vivace.charts.axis import Axis
from vivace.charts.lines import Series
from vivace.charts.page import Section
from vivace.charts.timeline import Lane, timeline

_NUM_BINS = 80
_MAX_DOTS = 600  # requests that are drawn; more would hide each other
_CLOCK = Axis("Time since the first request", "s", low=0)


def time_section(result: StoredResult) -> Section | None:
    """None where nothing was sampled and nothing answered."""
    lanes = [*_server_lanes(result.samples, result.records), *_client_lanes(result)]
    return Section("Over time", timeline("The server while it was measured", lanes, clock=_CLOCK)) if lanes else None


def _server_lanes(samples: Sequence[ServerSample], records: Sequence[RequestRecord]) -> Iterator[Lane]:
    running = [(one.time_s, one.num_running) for one in samples if one.num_running is not None]
    waiting = [(one.time_s, one.num_waiting or 0.0) for one in samples if one.num_running is not None]
    if len(running) > 1:
        series = [Series("running", running, steps=True), Series("waiting", waiting, steps=True)]
        yield Lane(Axis("Requests in the server"), series, stacked=True)
    elif records:
        yield Lane(Axis("Requests on their way"), [Series("on their way", _on_their_way(records), steps=True)])
    usage = [(one.time_s, one.kv_usage) for one in samples if one.kv_usage is not None]
    if len(usage) > 1:
        most = 1 if max(share for _, share in usage) > 0.2 else None  # one hardly used has a scale of its own
        axis = Axis("KV cache in use", share=True, low=0, high=most)
        yield Lane(axis, [Series("KV cache in use", usage, steps=True)])


def _client_lanes(result: StoredResult) -> Iterator[Lane]:
    times = np.asarray([time for record in result.records for time in record.token_s])
    if len(times) and result.duration_s > 0:
        counts, edges = np.histogram(times, bins=_NUM_BINS, range=(0.0, result.duration_s))
        width = float(edges[1] - edges[0])
        points = [(float(edge), float(count) / width) for edge, count in zip(edges[:-1], counts, strict=True)]
        yield Lane(Axis("Output", "tokens/s"), [Series("output", points, steps=True)])
    answered = [record for record in result.records if record.status == "ok"]
    step = -(-len(answered) // _MAX_DOTS) or 1
    first = [
        (record.intended_s, latency.ttft_ms)
        for record in answered[::step]
        if (latency := Latency.of(record)).ttft_ms is not None
    ]
    if first:
        yield Lane(Axis("TTFT of each request", "ms"), [Series("TTFT", first)], dots=True)


def _on_their_way(records: Sequence[RequestRecord]) -> list[tuple[float, float]]:
    """How many requests had been sent and not ended, at each change."""
    changes = sorted([(one.sent_s, 1) for one in records] + [(one.ended_s, -1) for one in records])
    levels = np.cumsum([change for _, change in changes])
    step = -(-len(changes) // 400) or 1
    return [(time, float(level)) for (time, _), level in list(zip(changes, levels, strict=True))[::step]]
