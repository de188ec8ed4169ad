"""What `/metrics` says, read with prometheus_client's own parsers."""

from __future__ import annotations

import asyncio
import os
import random
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest
from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from vivace.core.errors import OverloadedError
from vivace.serve.admission import Admission, AdmissionLimits
from vivace.serve.metrics import MetricsMiddleware, ServerMetrics
from vivace.serve.metrics.process_families import ProcessUse
from vivace.serve.routes import metrics as metrics_route

DASHBOARD_NAMES = {
    "time_to_first_token_seconds": "histogram",
    "inter_token_latency_seconds": "histogram",
    "request_time_per_output_token_seconds": "histogram",
    "e2e_request_latency_seconds": "histogram",
    "request_queue_time_seconds": "histogram",
    "num_requests_running": "gauge",
    "num_requests_waiting": "gauge",
    "kv_cache_usage_perc": "gauge",
    "num_preemptions": "counter",
    "prefix_cache_queries": "counter",
    "prefix_cache_hits": "counter",
    "prompt_tokens": "counter",
    "generation_tokens": "counter",
    "spec_decode_num_drafts": "counter",
    "spec_decode_num_draft_tokens": "counter",
    "spec_decode_num_accepted_tokens": "counter",
    "spec_decode_num_accepted_tokens_per_pos": "counter",
}


@dataclass
class Facts:
    max_model_len: int = 1024
    max_num_seqs: int = 1
    max_num_batched_tokens: int = 512
    block_size: int = 16
    num_kv_blocks: int = 200
    weight_bytes: int = 24_000_000
    kv_cache_dtype: str = "bf16"
    kv_bytes_per_token: int = 1000


@dataclass
class Numbers:
    num_running: int = 3
    num_waiting: int = 2
    num_used_blocks: int = 50
    num_cached_blocks: int = 30
    num_free_blocks: int = 120
    num_steps: int = 1000
    num_computed_tokens: int = 5000
    num_generation_tokens: int = 2000
    num_preemptions: int = 7
    num_prefix_queries: int = 900
    num_prefix_hits: int = 300
    last_step_s: float = 0.025
    num_restarts: int = 1
    num_drafts: int = 40
    num_draft_tokens: int = 150
    num_accepted_tokens: int = 90
    num_accepted_by_position: tuple[int, ...] = (38, 30, 22)
    speculation_choices: dict[str, int] = field(default_factory=lambda: {"guess": 40, "plain": 60})
    speculation_gain: float = 1.5


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def make_app(clock: Clock) -> Starlette:
    """An app of its own, with a route that answers and one that breaks off."""

    async def answer(request: Request) -> Response:
        clock.now += 0.5
        return Response("fine", int(request.query_params.get("status", "200")))

    async def fail(_request: Request) -> Response:
        raise RuntimeError("no answer")

    server = ServerMetrics(clock)
    engine = SimpleNamespace(info=Facts(), gauges=Numbers(), state="ready", engine_pid=os.getpid())
    app = Starlette(
        routes=[Route("/v1/answer/{name}", answer), Route("/v1/fail", fail), *metrics_route.ROUTES],
        middleware=[Middleware(MetricsMiddleware, metrics=server.http)],
    )
    admission = Admission(AdmissionLimits(engine.info, max_queued_requests=2), clock)
    app.state.service = SimpleNamespace(model_name="tiny", metrics=server, engine=engine, admission=admission)
    return app


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def app(clock: Clock) -> Starlette:
    return make_app(clock)


def get(app: Starlette, *paths: str, method: str = "GET", accept: str = "") -> list[httpx.Response]:
    async def main() -> list[httpx.Response]:
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return [await client.request(method, path, headers={"accept": accept}) for path in paths]

    return asyncio.run(main())


def scrape(app: Starlette) -> dict[str, Metric]:
    response = get(app, "/metrics")[0]
    assert response.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    return {family.name: family for family in parse_text(response.text)}


def value(families: dict[str, Metric], name: str, suffix: str = "", **labels: str) -> float:
    family = families[f"vivace:{name}"]
    found = [
        sample.value
        for sample in family.samples
        if sample.name == family.name + suffix and labels.items() <= sample.labels.items()
    ]
    assert len(found) == 1, family.samples
    return found[0]


def test_names_that_dashboards_know(app: Starlette) -> None:
    families = scrape(app)
    for name, kind in DASHBOARD_NAMES.items():
        assert families[f"vivace:{name}"].type == kind
        assert all(sample.labels["model_name"] == "tiny" for sample in families[f"vivace:{name}"].samples)


def test_openmetrics_where_it_is_accepted(app: Starlette) -> None:
    accept = "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,*/*;q=0.1"
    response = get(app, "/metrics", accept=accept)[0]
    assert response.headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")
    families = {family.name: family for family in parse_openmetrics(response.text)}
    assert (
        DASHBOARD_NAMES.items() <= {name.removeprefix("vivace:"): one.type for name, one in families.items()}.items()
    )


@pytest.mark.parametrize(
    "accept", ["text/plain; version=x", "application/openmetrics-text; version=9e999", ",;,", "a" * 9_000]
)
def test_any_accept_header_is_answered(app: Starlette, accept: str) -> None:
    assert get(app, "/metrics", accept=accept)[0].status_code == 200


def test_the_engine_as_it_is(app: Starlette) -> None:
    families = scrape(app)
    assert value(families, "kv_cache_usage_perc") == 0.25
    assert value(families, "num_requests_running") == 3
    assert value(families, "num_preemptions", "_total") == 7
    assert value(families, "prefix_cache_hits", "_total") == 300
    assert value(families, "engine_restarts", "_total") == 1
    assert value(families, "spec_decode_num_draft_tokens", "_total") == 150
    assert value(families, "spec_decode_num_accepted_tokens_per_pos", "_total", position="1") == 30
    assert value(families, "spec_decode_choices", "_total", choice="plain") == 60
    assert value(families, "spec_decode_expected_gain") == 1.5
    assert value(families, "kv_cache_num_blocks") == 200
    assert value(families, "cache_config_info", block_size="16", num_gpu_blocks="200", cache_dtype="bf16") == 1
    app.state.service.engine.gauges = Numbers(num_used_blocks=100)
    assert value(scrape(app), "kv_cache_usage_perc") == 0.5


def test_memory_and_processor_time(app: Starlette) -> None:
    """The front and the engine are this process here."""
    before_s = sum(os.times()[:2])
    families = scrape(app)
    used = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")
    for prefix, name in (("", "process"), ("vivace:", "engine")):
        (resident,) = families[f"{prefix}{name}_resident_memory_bytes"].samples
        (cpu,) = families[f"{prefix}{name}_cpu_seconds"].samples
        assert resident.value == pytest.approx(used, rel=0.1)
        assert before_s - 0.02 <= cpu.value <= sum(os.times()[:2]) + 0.02  # in hundredths of a second
    (files,) = families["process_open_fds"].samples
    assert 0 < files.value <= families["process_max_fds"].samples[0].value
    started_s = families["process_start_time_seconds"].samples[0].value
    assert started_s < time.time()
    assert value(families, "kv_cache_bytes") == 200 * 16 * 1000


def test_when_a_process_began() -> None:
    """/proc does not tell it in seconds since 1970: a directory's time there is that of the first look."""
    before_s = time.time()
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        use = ProcessUse.of(child.pid)
        after_s = time.time()
        child.communicate(b"\n")
    assert use is not None
    assert before_s - 60 <= use.started_s <= after_s + 60


def test_counters_begin_at_zero(app: Starlette) -> None:
    families = scrape(app)
    assert value(families, "request_success", "_total", finished_reason="error") == 0
    assert value(families, "admission_rejected", "_total", reason="tokens") == 0


def test_one_request(app: Starlette, clock: Clock) -> None:
    request = app.state.service.metrics.begin()
    for seconds, event in (
        (0.2, request.turn),
        (0.3, lambda: request.first_token(40)),
        (0.0, lambda: request.tokens(1)),
        (0.04, lambda: request.tokens(1)),
        (0.08, lambda: request.tokens(1)),
        (0.0, lambda: request.finished("stop")),
        (9.0, lambda: request.finished("abort")),
    ):
        clock.now += seconds
        event()
    families = scrape(app)
    assert value(families, "request_queue_time_seconds", "_sum") == pytest.approx(0.2)
    assert value(families, "time_to_first_token_seconds", "_sum") == pytest.approx(0.5)
    assert value(families, "inter_token_latency_seconds", "_count") == 2
    assert value(families, "inter_token_latency_seconds", "_sum") == pytest.approx(0.12)
    assert value(families, "inter_token_latency_seconds", "_bucket", le="0.05") == 1
    assert value(families, "request_time_per_output_token_seconds", "_sum") == pytest.approx(0.06)
    assert value(families, "e2e_request_latency_seconds", "_sum") == pytest.approx(0.62)
    assert value(families, "prompt_tokens", "_total") == 40
    assert value(families, "generation_tokens", "_total") == 3
    assert value(families, "request_success", "_total", finished_reason="stop") == 1


def test_buckets_count_what_an_independent_count_says(app: Starlette, clock: Clock) -> None:
    chance = random.Random(11)
    durations = [chance.lognormvariate(-1.0, 2.0) for _ in range(500)]
    for duration_s in durations:
        request = app.state.service.metrics.begin(clock.now - duration_s)
        request.first_token(1)
    family = scrape(app)["vivace:time_to_first_token_seconds"]
    buckets = {s.labels["le"]: s.value for s in family.samples if s.name.endswith("_bucket")}
    assert buckets.pop("+Inf") == 500
    assert len(buckets) >= 15
    for bound, count in buckets.items():
        assert count == sum(duration_s <= float(bound) for duration_s in durations), bound


def test_the_waiting_room(app: Starlette) -> None:
    admission: Admission = app.state.service.admission
    tickets = [admission.enter(key="secret-key", num_bytes=300, max_tokens=16) for _ in range(2)]
    with pytest.raises(OverloadedError):
        admission.enter(key="secret-key", num_bytes=300, max_tokens=16)
    families = scrape(app)
    assert value(families, "admission_queued_requests") == 2
    assert value(families, "num_requests_waiting") == 2 + 2
    assert value(families, "admission_queued_tokens") == 200
    assert value(families, "admission_rejected", "_total", reason="requests") == 1
    assert value(families, "admission_predicted_wait_seconds") > 0
    assert value(families, "admission_generation_tokens_per_second") == pytest.approx(10_000)
    assert "secret-key" not in get(app, "/metrics")[0].text
    for ticket in tickets:
        ticket.release()
    assert value(scrape(app), "admission_queued_requests") == 0


def test_http_by_route_and_status_and_never_by_the_clients_words(app: Starlette) -> None:
    get(app, "/v1/answer/a", "/v1/answer/b?status=404", "/v1/answer/c", "/v1/fail")
    get(app, *(f"/scan/{number}.php" for number in range(50)))
    get(app, "/v1/answer/a", method="BREW")
    families = scrape(app)
    pattern = "/v1/answer/{name}"
    assert value(families, "http_requests", "_total", route=pattern, method="GET", status="200") == 2
    assert value(families, "http_requests", "_total", route=pattern, method="GET", status="404") == 1
    assert value(families, "http_requests", "_total", route="unmatched", status="404") == 50
    assert value(families, "http_requests", "_total", method="other") == 1
    assert value(families, "http_request_duration_seconds", "_count", route=pattern) == 4
    assert value(families, "http_request_duration_seconds", "_sum", route=pattern) == pytest.approx(1.5)
    assert value(families, "http_requests_open") == 1  # the scrape itself
    routes = {sample.labels["route"] for sample in families["vivace:http_requests"].samples}
    assert routes <= {pattern, "/v1/fail", "/metrics", "unmatched"}


def test_two_apps_share_nothing(clock: Clock) -> None:
    first, second = make_app(clock), make_app(clock)
    first.state.service.metrics.begin().finished("stop")
    assert value(scrape(first), "e2e_request_latency_seconds", "_count") == 1
    assert value(scrape(second), "e2e_request_latency_seconds", "_count") == 0
