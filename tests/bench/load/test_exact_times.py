"""Whole runs over real sockets, with figures that are exact: time moves when the server says so."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from lockstep_server import LockstepServer, ToldClock

from vivace.bench.load import run as load_run
from vivace.bench.load.address import Address
from vivace.bench.load.progress import RunProgress
from vivace.bench.load.run import RunReport, run_traffic
from vivace.bench.load.target import Target
from vivace.bench.records import RequestRecord, ServerSample
from vivace.bench.summary import summarise
from vivace.bench.traffic.request import Traffic, TrafficRequest

GAPS_S = (0.1, 0.05, 0.05)
METRICS = "vllm:num_requests_running 2\nvllm:generation_tokens_total 5\n"


class Run:
    """What one user who sends these requests finds, and what the server saw."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, requests: Sequence[TrafficRequest], **server: float | None
    ) -> None:
        self.records: list[RequestRecord] = []
        self.samples: list[ServerSample] = []
        clock, progress = ToldClock(), RunProgress()
        monkeypatch.setattr(load_run, "MonotonicClock", lambda: clock)
        self.server = LockstepServer(clock, progress, GAPS_S, metrics=METRICS, **server)  # type: ignore[arg-type]

        async def whole(url: str) -> RunReport:
            return await run_traffic(
                Traffic("test", tuple(requests), concurrency=1),
                Target(Address.parse(url)),
                on_record=self.records.append,
                on_sample=self.samples.append,
                progress=progress,
            )

        self.report = clock.play(self.server.serve(whole))


def prompt(index: int, num_tokens: int = 6, **values: float) -> TrafficRequest:
    return TrafficRequest(index, 7, num_tokens, text="x", **values)  # type: ignore[arg-type]


def test_latencies_are_those_of_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(monkeypatch, [prompt(index) for index in range(3)])
    assert [record.status for record in run.records] == ["ok"] * 3
    for number, record in enumerate(run.records):
        begun = 0.2 * number
        assert (record.intended_s, record.sent_s) == (pytest.approx(begun), pytest.approx(begun))
        moments = [begun + 0.1, begun + 0.1, begun + 0.15, begun + 0.15, begun + 0.2, begun + 0.2]
        assert list(record.token_s) == pytest.approx(moments)
        assert record.ended_s == pytest.approx(begun + 0.2)
    summary = summarise(run.records, run.samples, load=run.report.load)
    assert summary.ttft_ms is not None
    assert (summary.ttft_ms.count, summary.ttft_ms.p50.value) == (3, pytest.approx(100))
    assert summary.itl_ms is not None
    assert (summary.itl_ms.count, summary.itl_ms.p50.value) == (6, pytest.approx(50))
    assert summary.tpot_ms is not None
    assert summary.tpot_ms.p50.value == pytest.approx(50 * 2 / 5)
    assert summary.e2el_ms is not None
    assert summary.e2el_ms.p50.value == pytest.approx(200)
    assert summary.tokens_per_arrival == 2
    assert (summary.queue_ms and summary.queue_ms.max, summary.server.prefix_hit_rate) == (3.0, 2 / 7)
    assert summary.server.running_max == 2
    assert summary.server.peak_resident_bytes is not None


def test_who_leaves_has_what_came_before(monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(monkeypatch, [prompt(0, 10_000, cancel_after_s=3.0)], patience_s=3.0)
    (record,) = run.records
    assert (record.status, record.error, record.output_len) == ("cancelled", None, 6)
    assert list(record.token_s) == pytest.approx([0.1, 0.1, 0.15, 0.15, 0.2, 0.2])
    assert run.server.num_left == 1


def test_a_server_slow_to_tell_its_metrics_makes_no_request_late(monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(monkeypatch, [prompt(0), prompt(1)], metrics_s=0.9)
    assert [record.sent_s for record in run.records] == pytest.approx([0.0, 0.2])
    assert [record.intended_s for record in run.records] == pytest.approx([0.0, 0.2])
    assert [sample.time_s for sample in run.samples] == sorted(sample.time_s for sample in run.samples)
    assert [sample.num_running for sample in run.samples] == [2.0] * len(run.samples)
