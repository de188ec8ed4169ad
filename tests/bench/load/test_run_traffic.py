"""Whole runs over real sockets against a server with known latencies, in a process of its own.

Either process may stand still at any moment: times are bounded from below alone. test_exact_times.py has them exact,
and how exact they are on real time is measured by benches/load_accuracy.py.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace

import pytest
import uvloop
from mock_process import MockServer, mock_server, script

from vivace.bench.load import observer
from vivace.bench.load.address import Address
from vivace.bench.load.progress import RunProgress
from vivace.bench.load.run import RunReport, run_traffic
from vivace.bench.load.target import Target
from vivace.bench.records import RequestRecord, ServerSample
from vivace.bench.summary import summarise
from vivace.bench.traffic.request import Traffic, TrafficRequest
from vivace.core.errors import ConfigError, TargetError

METRICS = "vllm:num_requests_running 2\nvllm:generation_tokens_total 5\n"


class Run:
    """What one run left behind."""

    def __init__(self, target: Target, requests: Sequence[TrafficRequest], concurrency: int | None = None) -> None:
        self.records: list[RequestRecord] = []
        self.samples: list[ServerSample] = []
        self.progress = RunProgress()
        self.report: RunReport | None = None
        self.error: Exception | None = None
        traffic = Traffic("test", tuple(requests), concurrency=concurrency)
        try:
            self.report = uvloop.run(
                run_traffic(
                    traffic,
                    target,
                    on_record=self.records.append,
                    on_sample=self.samples.append,
                    progress=self.progress,
                )
            )
        except (TargetError, ConfigError) as error:
            self.error = error
        self.records.sort(key=lambda record: record.index)


def target(server: MockServer, **values: object) -> Target:
    return Target(Address.parse(server.url), **values)  # type: ignore[arg-type]


def prompt(index: int, arrival_s: float | None = 0.0, num_tokens: int = 4, **values: object) -> TrafficRequest:
    own = {name: values.pop(name) for name in ("cancel_after_s",) if name in values}
    return TrafficRequest(index, 7, num_tokens, text=script(**values), arrival_s=arrival_s, **own)  # type: ignore[arg-type]


def test_nothing_comes_before_it_was_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the clock that all processes share. How late things may come is in test_exact_times.py."""
    monkeypatch.setattr(observer, "SAMPLE_S", 60.0)  # a look at the server waits for one that stands still
    with mock_server("--metrics", METRICS) as server:
        requests = [
            prompt(i, 0.02 * i, 6, ttft=0.1, gap=0.05, chunk=2, queue_ms=3.0, cached=2, name=i) for i in range(10)
        ]
        run = Run(target(server), requests)
        truths = {truth["name"]: truth for truth in server.truths()[1:]}  # the first is the trial
    assert run.error is None
    assert [(record.status, record.output_len) for record in run.records] == [("ok", 6)] * 10
    earliest_start, latest_start = [], []  # of the run's clock
    for record in run.records:
        truth = truths[record.index]
        assert truth["tokens"] == [2, 2, 2]
        assert record.intended_s == requests[record.index].arrival_s
        assert record.intended_s <= record.sent_s
        assert list(record.token_s) == sorted(record.token_s)
        assert record.token_s[::2] == record.token_s[1::2], "two tokens an event"
        latest_start.append(truth["arrived"] - record.sent_s)
        earliest_start += [sent - came for sent, came in zip(truth["sent"], record.token_s[::2], strict=True)]
    assert max(earliest_start) <= min(latest_start)
    summary = summarise(run.records, run.samples, load=run.report.load if run.report else None)
    assert summary.ttft_ms is not None
    assert summary.ttft_ms.p50.value >= 100 - 1e-6
    assert (summary.queue_ms and summary.queue_ms.max, summary.server.prefix_hit_rate) == (3.0, 2 / 7)
    assert summary.server.running_max == 2
    assert summary.server.peak_resident_bytes is not None


def test_every_end_of_a_request_has_its_record() -> None:
    with mock_server() as server:
        requests = [
            prompt(0, ttft=0.01),
            prompt(1, status=429, retry_after="3"),
            prompt(2, status=500),
            prompt(3, drop_after=2, gap=0.01),
            prompt(4, body="{}"),
            prompt(5, num_tokens=10_000, gap=0.01, cancel_after_s=0.3, name="left"),
            prompt(6, count="final", chunk=3, num_tokens=5),
            prompt(7, count="none"),
        ]
        run = Run(target(server), requests)
        left = next(truth for truth in server.truths() if truth["name"] == "left")
    kinds = {record.index: (record.status, record.error and record.error.partition(":")[0]) for record in run.records}
    assert kinds == {
        0: ("ok", None),
        1: ("refused", "refused with 429"),
        2: ("error", "answered with 500"),
        3: ("error", "connection lost before the end of its answer"),
        4: ("error", "no stream of events came"),
        5: ("cancelled", None),
        6: ("ok", None),
        7: ("ok", None),
    }
    assert "come again in 3 s" in (run.records[1].error or "")
    assert [run.records[index].output_len for index in (0, 3, 6, 7)] == [4, 2, 5, 4]
    assert run.records[5].output_len <= sum(left["tokens"]) < 10_000
    assert (run.progress.num_sent, run.progress.num_running, run.progress.num_ended) == (8, 0, 8)


def test_refused_requests_are_sent_again_if_asked() -> None:
    with mock_server() as server:
        run = Run(target(server, num_retries=2), [prompt(0, status=503, retry_after="0.01")])
        assert len(server.truths()) == 1 + 3
    assert [record.status for record in run.records] == ["refused"]
    assert run.records[0].ended_s - run.records[0].sent_s > 0.015  # from the first time, not the last


def test_conversations_go_on_with_real_answers() -> None:
    first = TrafficRequest(0, 7, 2, messages=({"role": "user", "content": script(name="first")},), arrival_s=0.0)
    last = {"role": "user", "content": script(name="second")}
    planned = {"role": "assistant", "content": "planned"}
    second = TrafficRequest(1, 7, 2, messages=(*(first.messages or ()), planned, last), after=0)
    with mock_server() as server:
        run = Run(target(server), [first, second])
        prompts = [truth["prompt"] for truth in server.truths()[1:]]
    assert [record.status for record in run.records] == ["ok", "ok"]
    assert [message["content"] for message in prompts[1]][1] == " word word"


def test_a_server_that_dies_midway() -> None:
    with mock_server("--die-after", "6") as server:
        run = Run(target(server), [prompt(i, ttft=0.005) for i in range(40)], concurrency=2)
    assert isinstance(run.error, TargetError)
    statuses = [record.status for record in run.records]
    assert statuses.count("ok") >= 4
    assert "error" in statuses


def test_hundreds_of_streams_at_once() -> None:
    with mock_server() as server:
        run = Run(target(server), [prompt(i, ttft=0.2, gap=0.02, num_tokens=10) for i in range(300)])
        truths = server.truths()[1:]
    assert [record.output_len for record in run.records] == [10] * 300
    assert len(truths) == 300


@pytest.mark.parametrize(
    ("flags", "values", "message"),
    [
        (("--key", "secret"), {}, "wants a key .401.: give it with --api-key"),
        (("--key", "secret"), {"api_key": "wrong"}, "does not know the key"),
        ((), {"model": "mok"}, "has no model 'mok'.*mock"),
    ],
)
def test_servers_that_cannot_be_measured(flags: tuple[str, ...], values: dict[str, object], message: str) -> None:
    with mock_server(*flags) as server:
        run = Run(target(server, **values), [prompt(0)])
    with pytest.raises(TargetError, match=message):
        raise run.error or AssertionError
    assert run.records == []


def test_nobody_listens() -> None:
    with mock_server() as server:
        gone = target(server)
    run = Run(gone, [prompt(0)])
    with pytest.raises(TargetError, match="no server answers at http"):
        raise run.error or AssertionError


def test_the_key_and_the_model_go_with_every_request() -> None:
    with mock_server("--key", "secret") as server:
        run = Run(target(server, api_key="secret", model="mock"), [prompt(0)])
    assert [record.status for record in run.records] == ["ok"]


@pytest.mark.parametrize(
    ("owner", "kind", "fields"),
    [
        ("vllm", "vllm", {"ignore_eos"}),
        ("llamacpp", "llamacpp", {"ignore_eos", "timings_per_token"}),
        ("somebody", "openai", {"ignore_eos"}),
    ],
)
def test_makes_are_told_apart(owner: str, kind: str, fields: set[str]) -> None:
    with mock_server("--owner", owner) as server:
        run = Run(target(server), [prompt(0)])
    assert run.report is not None
    assert run.report.target.kind == kind
    assert fields <= {*run.report.target.dialect.fields, *run.report.target.extra}


@pytest.mark.parametrize(("metrics", "kind"), [("tgi_queue_size 0\n", "tgi"), ("sglang:token_usage 0.5\n", "sglang")])
def test_makes_are_known_by_their_metrics(metrics: str, kind: str) -> None:
    with mock_server("--owner", "", "--metrics", metrics) as server:
        run = Run(target(server), [prompt(0)])
    assert run.report is not None
    assert run.report.target.kind == kind


def test_token_ids_and_what_cannot_take_them() -> None:
    ids = TrafficRequest(0, 3, 2, token_ids=(1, 2, 3), arrival_s=0.0)
    with mock_server() as server:
        run = Run(target(server), [ids])
        assert server.truths()[-1]["prompt"] == [1, 2, 3]
        assert [record.status for record in run.records] == ["ok"]
        refused = Run(replace(target(server), endpoint="chat"), [ids])
    assert isinstance(refused.error, ConfigError)
    assert "token ids cannot be sent as a chat" in json.dumps(str(refused.error))
