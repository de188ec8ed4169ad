"""Everything at the moment of a scrape; nothing is kept for it in between."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from vivace.serve.admission import Admission
from vivace.serve.metrics.engine_families import Engine, engine_families
from vivace.serve.metrics.families import Family, Labels, counter, counters, gauge, histogram, histograms
from vivace.serve.metrics.http_metrics import HttpMetrics
from vivace.serve.metrics.process_families import process_families
from vivace.serve.metrics.server_metrics import ServerMetrics


class MetricsCollector:
    """One scrape of one app. Families carry the label `model_name`; those of HTTP have route, method and status."""

    def __init__(self, model_name: str, server: ServerMetrics, engine: Engine, admission: Admission) -> None:
        self._labels = Labels(("model_name",), (model_name,))
        self._server = server
        self._engine = engine
        self._admission = admission

    def collect(self) -> Iterable[Family]:
        yield from engine_families(self._engine, self._labels, self._admission.num_queued)
        yield from _request_families(self._server, self._labels)
        yield from _admission_families(self._admission, self._labels)
        yield from _http_families(self._server.http)
        yield from process_families(self._engine.engine_pid, self._labels)
        loop, bare = self._server.event_loop, Labels((), ())
        yield histogram("event_loop_lag_seconds", "How late the front runs what is due.", bare, loop.lag_s)
        yield gauge("front_num_tasks", "Tasks of the front's event loop.", bare, loop.num_tasks)


def _request_families(server: ServerMetrics, labels: Labels) -> Iterator[Family]:
    yield histogram("time_to_first_token_seconds", "From arrival to the first token.", labels, server.first_token_s)
    yield histogram("inter_token_latency_seconds", "Gap between tokens.", labels, server.inter_token_s)
    yield histogram(
        "request_time_per_output_token_seconds",
        "(end - first token) / (output tokens - 1).",
        labels,
        server.per_output_token_s,
    )
    yield histogram("e2e_request_latency_seconds", "From arrival to the end.", labels, server.request_s)
    yield histogram("request_queue_time_seconds", "From arrival to the engine.", labels, server.queue_s)
    yield histogram("request_prompt_tokens", "Prompt tokens of a request.", labels, server.prompt_tokens)
    yield histogram("request_generation_tokens", "Output tokens of a request.", labels, server.generation_tokens)
    yield counter("prompt_tokens", "Prompt tokens of requests that were begun.", labels, server.num_prompt_tokens)
    yield counter("generation_tokens", "Tokens generated.", labels, server.num_generation_tokens)
    yield counters("request_success", "Requests that ended.", labels, ("finished_reason",), _by(server.finished))


def _admission_families(admission: Admission, labels: Labels) -> Iterator[Family]:
    yield gauge("admission_queued_requests", "Requests that wait in the front.", labels, admission.num_queued)
    yield gauge("admission_queued_tokens", "Their prompt tokens.", labels, admission.num_queued_tokens)
    yield gauge(
        "admission_worst_case_blocks",
        "KV blocks that everything admitted could come to need.",
        labels,
        admission.num_worst_case_blocks,
    )
    yield gauge(
        "admission_predicted_wait_seconds",
        "How long a request that came now would wait.",
        labels,
        admission.predicted_wait_s(),
    )
    yield gauge("admission_prompt_tokens_per_second", "Drain rate of prompts.", labels, admission.prompt_tokens_per_s)
    yield gauge(
        "admission_generation_tokens_per_second",
        "Drain rate of generation.",
        labels,
        admission.generation_tokens_per_s,
    )
    yield counters(
        "admission_rejected", "Requests refused, by reason.", labels, ("reason",), _by(admission.num_refused)
    )


def _by(counts: Mapping[str, int]) -> dict[tuple[str, ...], float]:
    return {(name,): count for name, count in counts.items()}


def _http_families(http: HttpMetrics) -> Iterator[Family]:
    yield gauge("http_requests_open", "HTTP exchanges under way.", Labels((), ()), http.num_open)
    yield counters(
        "http_requests",
        "HTTP exchanges.",
        Labels((), ()),
        ("route", "method", "status"),
        {(route, method, str(status)): count for (route, method, status), count in http.num_exchanges.items()},
    )
    yield histograms(
        "http_request_duration_seconds",
        "From the head of the request to the last byte of the answer.",
        Labels((), ()),
        ("route",),
        {(route,): duration_s for route, duration_s in http.duration_s.items()},
    )
