"""Traces: what a span says, where it hangs, and that nothing else depends on the collector."""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from served_process import SMALL, ServedProcess, eventually, served

from vivace.core.account import RequestAccount
from vivace.core.errors import ConfigError, EngineError
from vivace.core.history import PrefixMiss
from vivace.core.sampling import SamplingParams
from vivace.serve.stories import PromptStory, RequestStory
from vivace.serve.tracing import TracedCall, make_tracer, traces_url

pytest.importorskip("opentelemetry.sdk.trace", reason="the extra otel is not installed")
pytest.importorskip("opentelemetry.exporter.otlp.proto.http", reason="the extra otel is not installed")

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from vivace.serve.spans import RequestTracer

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
TRACEPARENT = f"00-{TRACE}-{PARENT}-01"
CHAT = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 5, "temperature": 0}


def story(**changes: Any) -> RequestStory:
    prompt = PromptStory("req-1-0", arrived=100.0)
    prompt.prepared, prompt.called, prompt.admitted = 100.25, 100.5, 100.75
    prompt.first_token, prompt.ended, prompt.finish_reason = 101.0, 103.0, "length"
    prompt.num_prompt_tokens, prompt.num_output_tokens, prompt.num_cached_tokens = 30, 7, 16
    prompt.num_ahead, prompt.delays = 2, {"rows": 0.25}
    prompt.account = RequestAccount(100.5, 30, 7, 16, miss=PrefixMiss(1, "never"), num_chunks=2, num_guessed=4)
    for name, value in changes.items():
        setattr(prompt, name, value)
    return RequestStory("req-1", "key-1", 1, 0, [prompt])


def recorded(told: RequestStory, call: TracedCall, error: BaseException | None = None) -> Any:
    """The only span, as the SDK would export it."""
    exporter = InMemorySpanExporter()
    tracer = RequestTracer(SimpleSpanProcessor(exporter), "small")
    tracer.record(told, call, error)
    (span,) = exporter.get_finished_spans()
    return span


def call(path: str = "/v1/chat/completions", **headers: str) -> TracedCall:
    return TracedCall(path, SamplingParams(max_tokens=9, temperature=0.5, top_k=3, seed=2**63), headers)


def test_one_span_with_its_moments() -> None:
    span = recorded(story(), call())
    assert (span.name, span.kind, span.status.status_code) == ("chat small", SpanKind.SERVER, StatusCode.UNSET)
    seconds = [(event.name, round((event.timestamp - span.start_time) / 1e9, 6)) for event in span.events]
    assert seconds == [
        ("vivace.queue", 0.25),
        ("vivace.prefill", 0.75),
        ("vivace.first_token", 1.0),
        ("vivace.decode", 3.0),
    ]
    assert round((span.end_time - span.start_time) / 1e9, 6) == 3.0
    assert span.events[0].attributes == {"vivace.queue.num_ahead": 2, "vivace.queue.rows_s": 0.25}
    assert span.events[1].attributes["vivace.prefix.first_miss"] == "never"
    assert span.events[3].attributes["vivace.speculation.num_guessed"] == 4


def test_attributes_are_those_of_the_conventions() -> None:
    attributes = pytest.importorskip("opentelemetry.semconv._incubating.attributes.gen_ai_attributes")
    known = {
        value for name, value in vars(attributes).items() if name.startswith("GEN_AI_") and isinstance(value, str)
    }
    span = recorded(story(), call())
    used = dict(span.attributes)
    assert {name for name in used if name.startswith("gen_ai.")} <= known
    assert used["gen_ai.operation.name"] == "chat"
    assert used["gen_ai.provider.name"] == "vivace"
    assert (used["gen_ai.usage.input_tokens"], used["gen_ai.usage.output_tokens"]) == (30, 7)
    assert used["gen_ai.usage.cache_read.input_tokens"] == 16
    assert used["gen_ai.response.finish_reasons"] == ("length",)
    assert used["gen_ai.response.time_to_first_chunk"] == pytest.approx(1.0)
    assert (used["gen_ai.request.max_tokens"], used["gen_ai.request.top_k"]) == (9, 3)
    assert "gen_ai.request.seed" not in used  # no signed integer of 64 bits
    assert used["vivace.request.id"] == "req-1"


def test_embeddings_have_no_sampling() -> None:
    span = recorded(story(first_token=None), call("/v1/embeddings"))
    assert span.name == "embeddings small"
    assert not [name for name in span.attributes if name.startswith("gen_ai.request.") and "model" not in name]


def test_failures_say_their_kind_and_departures_are_none() -> None:
    failed = recorded(story(first_token=None, admitted=None), call(), EngineError("secret words"))
    assert failed.status.status_code is StatusCode.ERROR
    assert failed.attributes["error.type"] == "EngineError"
    assert "secret" not in failed.to_json()
    assert [event.name for event in failed.events] == ["vivace.queue"]
    assert recorded(story(), call(), GeneratorExit()).status.status_code is StatusCode.UNSET


@pytest.mark.parametrize("header", [TRACEPARENT, TRACEPARENT[:-1] + "0", "00-zz-1-01", "", "x" * 9000])
def test_it_hangs_where_the_caller_says(header: str) -> None:
    if header.endswith("-00"):  # the caller's trace is not sampled, so neither is ours
        exporter = InMemorySpanExporter()
        RequestTracer(SimpleSpanProcessor(exporter), "small").record(story(), call(traceparent=header), None)
        assert exporter.get_finished_spans() == ()
        return
    span = recorded(story(), call(traceparent=header, tracestate="a=1"))
    if header == TRACEPARENT:
        assert f"{span.context.trace_id:032x}" == TRACE
        assert f"{span.parent.span_id:016x}" == PARENT
    else:
        assert span.parent is None


def test_a_tracer_that_breaks_breaks_nothing(caplog: pytest.LogCaptureFixture) -> None:
    tracer = RequestTracer(SimpleSpanProcessor(InMemorySpanExporter()), "small")
    broken: Any = RequestStory("req-1", "key-1", 1, 0, [None])  # type: ignore[list-item]
    for _ in range(3):
        tracer.record(broken, call(), None)
    assert caplog.text.count("could not be traced") == 1


def test_who_asks_for_traces(caplog: pytest.LogCaptureFixture) -> None:
    assert make_tracer(None, "small", {}) is None
    disabled = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://localhost:1", "OTEL_SDK_DISABLED": "true"}
    assert make_tracer(None, "small", disabled) is None
    with caplog.at_level(logging.WARNING):
        over_grpc = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://localhost:1", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}
        assert make_tracer(None, "small", over_grpc) is None
    assert "http/protobuf" in caplog.text
    assert traces_url("http://collector:4318/") == "http://collector:4318/v1/traces"
    assert traces_url("https://collector/otlp/v1/traces") == "https://collector/otlp/v1/traces"


def test_without_the_extra_the_flag_is_refused(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delitem(sys.modules, "vivace.serve.spans", raising=False)
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    with pytest.raises(ConfigError, match=r"vivace\[otel\]"):
        make_tracer("http://localhost:4318", "small", {})
    with caplog.at_level(logging.WARNING):
        assert make_tracer(None, "small", {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://localhost:4318"}) is None
    assert "vivace[otel]" in caplog.text


def test_the_command_line_says_it_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "opentelemetry").mkdir()
    (tmp_path / "opentelemetry" / "__init__.py").write_text("raise ImportError('it is not there')")
    command = "import sys; sys.path.insert(0, sys.argv.pop(1)); from vivace.cli import main; main()"
    arguments = [str(tmp_path), "serve", "--otlp-endpoint", "http://localhost:4318"]
    done = subprocess.run([sys.executable, "-c", command, *arguments], capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert "pip install 'vivace[otel]'" in done.stderr.replace("\n", " ")
    assert "Traceback" not in done.stderr


class Collector:
    """Takes OTLP over HTTP, as a collector does."""

    def __init__(self) -> None:
        collector = self
        self.spans: list[Any] = []
        self.services: set[str] = set()

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                collector.take(self.path, body)
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def take(self, path: str, body: bytes) -> None:
        assert path == "/v1/traces"
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            self.services |= {
                one.value.string_value for one in resource.resource.attributes if one.key == "service.name"
            }
            self.spans += [span for scope in resource.scope_spans for span in scope.spans]

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def collector() -> Iterator[Collector]:
    one = Collector()
    yield one
    one.close()


def chat(server: ServedProcess, **headers: str) -> httpx.Response:
    url = f"{server.base_url}/v1/chat/completions"
    return httpx.post(url, json=CHAT, headers=headers, timeout=120.0).raise_for_status()


def test_a_server_sends_its_spans(collector: Collector) -> None:
    environment = {"OTEL_BSP_SCHEDULE_DELAY": "50", "OTEL_EXPORTER_OTLP_TIMEOUT": "60"}
    with served(*SMALL, "--otlp-endpoint", collector.url, api_key=None, environment=environment) as server:
        server.wait_ready()
        answer = chat(server, traceparent=TRACEPARENT)
        assert eventually(lambda: len(collector.spans) == 1)
        (span,) = collector.spans
        assert (span.trace_id.hex(), span.parent_span_id.hex()) == (TRACE, PARENT)
        attributes = {one.key: one.value for one in span.attributes}
        assert attributes["vivace.request.id"].string_value == answer.headers["x-request-id"]
        assert attributes["gen_ai.usage.output_tokens"].int_value == answer.json()["usage"]["completion_tokens"]
        assert [event.name for event in span.events] == [
            *("vivace.queue", "vivace.prefill", "vivace.first_token", "vivace.decode")
        ]
        times = [span.start_time_unix_nano, *(event.time_unix_nano for event in span.events), span.end_time_unix_nano]
        assert times == sorted(times)
        assert collector.services == {"vivace"}


def test_a_collector_that_is_not_there_holds_nobody_up() -> None:
    environment = {"OTEL_BSP_SCHEDULE_DELAY": "50", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"}
    with served(*SMALL, api_key=None, environment=environment) as server:
        server.wait_ready()
        assert {chat(server).status_code for _ in range(5)} == {200}
        server.ask_to_end()
        assert server.wait_ended() == 0
