"""Which runs may go, and that they go whole."""

from __future__ import annotations

from pathlib import Path

import pytest

from vivace.bench.records import RequestRecord, ServerSample
from vivace.bench.store.pruning import UNDER_WAY_S, prunable
from vivace.bench.store.result_store import ResultStore
from vivace.bench.store.rows import StoredRun
from vivace.core.errors import ConfigError

NOW = 1e9


def run(number: int, age_s: float, *, is_finished: bool = True) -> StoredRun:
    began = NOW - age_s
    return StoredRun(number, "serve", "chat", "1", "", {}, {}, began, began + 1 if is_finished else None, None, 0)


def test_by_number_by_age_and_both() -> None:
    runs = [run(1, 4e6), run(2, 3e6), run(3, 2e6), run(4, 1e6)]

    def numbers(keep: int | None, before: float | None) -> list[int]:
        return [one.id for one in prunable(runs, keep=keep, before=before, now=NOW)]

    assert numbers(1, None) == [1, 2, 3]
    assert numbers(0, None) == [1, 2, 3, 4]
    assert numbers(9, None) == []
    assert numbers(None, NOW - 2.5e6) == [1, 2]
    assert numbers(3, NOW - 2.5e6) == [1]
    assert numbers(None, NOW - 9e6) == []


def test_a_run_that_may_be_under_way_stays() -> None:
    runs = [run(1, 2 * UNDER_WAY_S, is_finished=False), run(2, 60.0, is_finished=False), run(3, 60.0)]
    assert [one.id for one in prunable(runs, keep=0, before=None, now=NOW)] == [1, 3]


def test_runs_go_with_all_that_is_theirs_and_give_their_space_back(tmp_path: Path) -> None:
    path = tmp_path / "results.sqlite"
    with ResultStore(path) as store:
        for _ in range(3):
            number = store.begin("serve", "chat", {}, {}, command="x")
            for index in range(300):
                times = tuple(float(step) for step in range(100))
                store.add_request(number, RequestRecord(index, 0.0, 0.0, 1.0, "ok", 1, 1, times))
            store.add_sample(number, ServerSample(0.0, 1.0, 0.0, 0.5))
        store.remember("packing", "key", {"a": 1})
        store.remove([1, 3])
        assert [one.id for one in store.runs()] == [2]
        assert [len(store.requests(number)) for number in (1, 2, 3)] == [0, 300, 0]
        assert store.recall("packing") == {"key": {"a": 1}}
        assert store.begin("serve", "chat", {}, {}, command="x") == 4  # numbers are not given twice
    assert path.stat().st_size < 500_000  # three runs have 730 kB


def test_a_store_that_is_read_only_keeps_its_runs(tmp_path: Path) -> None:
    path = tmp_path / "results.sqlite"
    with ResultStore(path) as store:
        store.begin("serve", "chat", {}, {}, command="x")
    with ResultStore(path, read_only=True) as store:
        with pytest.raises(ConfigError):
            store.remove([1])
        assert len(store.runs()) == 1
