"""The search for the knee, on servers that are a formula."""

from __future__ import annotations

import pytest

from vivace.bench.load.sweep import SweepPoint, is_sustained, knee, next_rate
from vivace.bench.records import RequestRecord
from vivace.bench.slo import SLO


@pytest.mark.parametrize("capacity", [0.3, 1.0, 7.7, 120.0])
def test_the_knee_is_found_within_a_tenth(capacity: float) -> None:
    points: list[SweepPoint] = []
    while (rate := next_rate(points, start=2.0)) is not None:
        points.append(SweepPoint(rate, rate <= capacity))
        assert len(points) < 16
    found = knee(points)
    assert found is not None
    assert capacity / 1.1 <= found <= capacity


def test_a_server_that_keeps_up_with_nothing() -> None:
    points: list[SweepPoint] = []
    while (rate := next_rate(points, start=1.0)) is not None:
        points.append(SweepPoint(rate, False))
    assert knee(points) is None
    assert len(points) < 10


def test_the_knee_is_below_the_first_failure() -> None:
    points = [SweepPoint(1, True), SweepPoint(2, False), SweepPoint(4, True)]
    assert knee(points) == 1


def records(waits_s: list[float]) -> list[RequestRecord]:
    return [
        RequestRecord(i, float(i), float(i), i + wait + 0.1, "ok", 1, 2, (i + wait, i + wait + 0.1))
        for i, wait in enumerate(waits_s)
    ]


def test_a_queue_that_grows_is_not_kept_up_with() -> None:
    assert is_sustained(records([0.1] * 20), None, unloaded_ttft_ms=100)
    assert is_sustained(records([2.0] * 2 + [0.1] * 18), None, unloaded_ttft_ms=100)
    assert not is_sustained(records([0.1 * i for i in range(20)]), None, unloaded_ttft_ms=100)


def test_an_objective_decides_where_there_is_one() -> None:
    assert is_sustained(records([0.1] * 19 + [9.0]), SLO(ttft=200), unloaded_ttft_ms=1)
    assert not is_sustained(records([0.1] * 17 + [9.0] * 3), SLO(ttft=200), unloaded_ttft_ms=1)


def test_refusals_are_not_kept_up_with_but_clients_may_leave() -> None:
    refused = RequestRecord(90, 1.0, 1.0, 1.0, "refused", 1, 0)
    left = RequestRecord(91, 1.0, 1.0, 1.0, "cancelled", 1, 0)
    assert not is_sustained([*records([0.1] * 20), refused], None, unloaded_ttft_ms=100)
    assert is_sustained([*records([0.1] * 20), left], None, unloaded_ttft_ms=100)
    assert not is_sustained([left], None, unloaded_ttft_ms=100)
