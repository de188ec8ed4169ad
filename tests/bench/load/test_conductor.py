"""Who sends what when, on virtual time: every moment is exact."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import pytest
from virtual_clock import VirtualClock, play

from vivace.bench.load.conductor import Conductor, Exchange
from vivace.bench.records import RequestRecord, Status
from vivace.bench.summary import summarise
from vivace.bench.traffic.request import Traffic, TrafficRequest
from vivace.core.errors import TargetError


@dataclass
class ScriptedServer:
    """One at a time where `is_single`, else all at once; each request takes `service_s`."""

    clock: VirtualClock
    service_s: Callable[[TrafficRequest], float] = lambda _: 1.0
    status: Callable[[TrafficRequest], Status] = lambda _: "ok"
    unreachable_from: float = float("inf")
    is_single: bool = False
    sent: list[TrafficRequest] = field(default_factory=list)
    num_running: int = 0
    most_running: int = 0
    room: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def send(self, request: TrafficRequest, due_s: float) -> Exchange:
        await self.clock.sleep_until(due_s)
        sent_s = self.clock.now()
        if sent_s >= self.unreachable_from:
            return Exchange(RequestRecord(request.index, due_s, sent_s, sent_s, "error", 1, 0), is_unreachable=True)
        self.sent.append(request)
        self.num_running += 1
        self.most_running = max(self.most_running, self.num_running)
        if self.is_single:
            async with self.room:
                await asyncio.sleep(self.service_s(request))
        else:
            await asyncio.sleep(self.service_s(request))
        self.num_running -= 1
        now, status = self.clock.now(), self.status(request)
        tokens = (now,) if status == "ok" else ()
        record = RequestRecord(request.index, due_s, sent_s, now, status, 1, len(tokens), tokens)
        return Exchange(record, text=f"answer {request.index}")


def request(index: int, arrival_s: float | None = None, **values: object) -> TrafficRequest:
    return TrafficRequest(index, 1, 1, text="x", arrival_s=arrival_s, **values)  # type: ignore[arg-type]


def run(
    requests: Sequence[TrafficRequest],
    concurrency: int | None = None,
    max_concurrency: int | None = None,
    **server: object,
) -> tuple[list[RequestRecord], ScriptedServer]:
    records: list[RequestRecord] = []

    async def whole() -> ScriptedServer:
        clock = VirtualClock()
        scripted = ScriptedServer(clock, **server)  # type: ignore[arg-type]
        traffic = Traffic("test", tuple(requests), concurrency=concurrency)
        await Conductor(traffic, scripted, clock, records.append, max_concurrency=max_concurrency).play()
        return scripted

    scripted = play(whole())
    return sorted(records, key=lambda record: record.index), scripted


def times(records: Sequence[RequestRecord]) -> list[tuple[float, float, float]]:
    return [
        (record.intended_s, pytest.approx(record.sent_s, abs=1e-9), pytest.approx(record.ended_s, abs=1e-9))
        for record in records
    ]


def test_an_open_loop_sends_on_time_whatever_the_server_does() -> None:
    records, _ = run([request(0, 0.0), request(1, 0.25), request(2, 0.5)], service_s=lambda _: 10.0)
    assert times(records) == [(0.0, 0.0, 10.0), (0.25, 0.25, 10.25), (0.5, 0.5, 10.5)]


def test_requests_need_not_be_in_order() -> None:
    records, server = run([request(0, 2.0), request(1, 1.0)])
    assert [one.index for one in server.sent] == [1, 0]
    assert times(records) == [(2.0, 2.0, 3.0), (1.0, 1.0, 2.0)]


def test_a_closed_loop_keeps_its_users_busy() -> None:
    records, server = run([request(index) for index in range(5)], concurrency=2)
    assert server.most_running == 2
    assert [record.intended_s for record in records] == [0.0, 0.0, 1.0, 1.0, 2.0]


def test_users_think() -> None:
    records, _ = run([request(index, think_s=0.5) for index in range(3)], concurrency=1)
    assert [record.intended_s for record in records] == [0.5, 2.0, 3.5]


def test_turns_wait_for_their_answer_and_take_it() -> None:
    first = TrafficRequest(0, 1, 1, messages=({"role": "user", "content": "a"},), arrival_s=1.0)
    said = {"role": "assistant", "content": "as planned"}
    second = TrafficRequest(
        1, 1, 1, messages=(*first.messages, said, {"role": "user", "content": "b"}), after=0, think_s=2.0
    )  # type: ignore[misc]
    third = TrafficRequest(
        2, 1, 1, messages=(*second.messages, said, {"role": "user", "content": "c"}), after=1, arrival_s=9.0
    )  # type: ignore[misc]
    records, server = run([first, second, third])
    assert [record.intended_s for record in records] == [1.0, 4.0, 9.0]
    contents = [[message["content"] for message in one.messages or ()] for one in server.sent]
    assert contents == [["a"], ["a", "answer 0", "b"], ["a", "answer 0", "b", "answer 1", "c"]]


def test_a_user_goes_on_with_the_conversation_it_began() -> None:
    requests = [request(0), request(1), request(2, after=0), request(3, after=2)]
    _, server = run(requests, concurrency=1)
    assert [one.index for one in server.sent] == [0, 2, 3, 1]


def test_branches_run_side_by_side_in_an_open_loop() -> None:
    requests = [request(0, 0.0), request(1, after=0), request(2, after=0)]
    records, server = run(requests)
    assert server.most_running == 2
    assert [record.intended_s for record in records] == [0.0, 1.0, 1.0]


def test_a_conversation_without_an_answer_ends_and_every_turn_has_a_record() -> None:
    requests = [request(0, 0.0), request(1, after=0), request(2, after=1), request(3, 5.0)]
    records, server = run(requests, status=lambda one: "refused" if one.index == 0 else "ok")
    assert [one.index for one in server.sent] == [0, 3]
    assert [record.status for record in records] == ["refused", "cancelled", "cancelled", "ok"]
    assert records[2].error == "not sent: the conversation ended with request 1"


@pytest.mark.parametrize("concurrency", [None, 1])
def test_a_conversation_goes_on_after_an_answer_that_its_client_broke_off(concurrency: int | None) -> None:
    requests = [request(0, 0.0), request(1, after=0), request(2, after=1)]
    records, server = run(requests, concurrency, status=lambda one: "cancelled" if one.index == 0 else "ok")
    assert [one.index for one in server.sent] == [0, 1, 2]
    assert [record.status for record in records] == ["cancelled", "ok", "ok"]


def test_what_a_bound_holds_back_counts_from_when_it_was_due() -> None:
    """Coordinated omission: 10 requests a second to a server that takes 1 s for each, seen one at a time."""
    records, server = run([request(index, 0.1 * index) for index in range(10)], max_concurrency=1)
    assert server.most_running == 1
    summary = summarise(records, ())
    assert summary.e2el_ms is not None
    assert summary.e2el_ms.max == pytest.approx(1e3 * (10 - 0.9))
    assert summary.generator.late_share == 0.9


def test_a_servers_queue_is_seen() -> None:
    """Due every 0.5 s, served in 1 s: the n-th waits n/2 s, in an open loop alone."""
    records, _ = run([request(index, 0.5 * index) for index in range(8)], is_single=True)
    assert [record.ended_s - record.intended_s for record in records] == pytest.approx(
        [1 + 0.5 * index for index in range(8)]
    )


def test_a_server_that_is_gone_ends_the_run_but_not_what_is_in_flight() -> None:
    records: list[RequestRecord] = []

    async def whole() -> None:
        clock = VirtualClock()
        server = ScriptedServer(clock, unreachable_from=1.5, service_s=lambda one: 60.0 if one.index == 0 else 0.1)
        traffic = Traffic("test", tuple(request(index, 0.5 * index) for index in range(100)))
        await Conductor(traffic, server, clock, records.append).play()

    with pytest.raises(TargetError, match="gone"):
        play(whole())
    assert [record.status for record in records].count("ok") == 3
    assert [record.status for record in records].count("error") == 5
    assert max(record.ended_s for record in records) == pytest.approx(60.0)


def test_a_gone_server_ends_a_closed_loop_and_far_turns() -> None:
    records: list[RequestRecord] = []

    async def whole() -> None:
        clock = VirtualClock()
        server = ScriptedServer(clock, unreachable_from=0.5)
        turns = [request(100, after=0, think_s=1e6)]
        traffic = Traffic("test", (*(request(index) for index in range(50)), *turns), concurrency=3)
        await Conductor(traffic, server, clock, records.append).play()

    with pytest.raises(TargetError):
        play(whole())
    assert max(record.ended_s for record in records) < 10


def test_an_error_of_ours_comes_out_as_it_is() -> None:
    def fail(_: RequestRecord) -> None:
        raise ZeroDivisionError

    async def whole() -> None:
        clock = VirtualClock()
        await Conductor(Traffic("test", (request(0, 0.0),)), ScriptedServer(clock), clock, fail).play()

    with pytest.raises(ZeroDivisionError):
        play(whole())
