"""The file of results: what goes in comes out; hostile files; several processes; a process that is killed."""

from __future__ import annotations

import math
import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path

import pytest

from vivace.bench.records import RequestRecord, ServerSample
from vivace.bench.store import result_store
from vivace.bench.store.location import default_store_path
from vivace.bench.store.result_store import ResultStore
from vivace.bench.store.schema import APPLICATION_ID, SCHEMA_VERSION
from vivace.core.errors import ConfigError

WRITER = """
import sys
from vivace.bench.records import RequestRecord, ServerSample
from vivace.bench.store.result_store import ResultStore
store = ResultStore(sys.argv[1])
run = store.begin("serve", sys.argv[2], {}, {})
for index in range(int(sys.argv[3])):
    store.add_request(run, RequestRecord(index, 0.0, 0.0, 1.0, "ok", 3, 2, (0.5, 1.0)))
    store.add_sample(run, ServerSample(float(index), num_running=1.0))
    print(run, index, flush=True)
"""


def record(index: int, seed: int = 0) -> RequestRecord:
    random_ = random.Random(1000 * seed + index)
    times = tuple(sorted(random_.random() for _ in range(random_.randrange(5))))
    return RequestRecord(
        index,
        random_.random(),
        random_.random(),
        random_.random(),
        random_.choice(["ok", "refused", "cancelled", "error"]),
        random_.randrange(1, 1000),
        len(times),
        times,
        random_.choice([None, 0.25]),
        random_.choice([None, 16]),
        random_.choice([None, "connection lost\nin the middle"]),
    )


def test_what_goes_in_comes_out(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "results.sqlite"
    options, machine = {"rate": 3.5, "model": "é", "limit": math.inf}, {"cpu": "x", "cores": [0, 1]}
    records = [record(index) for index in range(50)]
    samples = [ServerSample(0.5, 1.0, 2.0, 0.25, 1e9, {"tokens": 7.0}), ServerSample(1.0)]
    with ResultStore(path) as store:
        run = store.begin("serve", "chat", options, machine, command="vivace bench serve")
        other = store.begin("optimize", "chat", {}, {})
        for one in reversed(records):
            store.add_request(run, one)
        for sample in reversed(samples):
            store.add_sample(run, sample)
        assert store.run(run).finished_at is None
        store.finish(run, {"ttft": {"p50": 0.1}})
    with ResultStore(path, read_only=True) as store:
        assert store.requests(run) == records
        assert store.samples(run) == samples
        stored = store.run(run)
        assert (stored.kind, stored.name, stored.command) == ("serve", "chat", "vivace bench serve")
        assert stored.options == {**options, "limit": None}  # JSON has no infinity
        assert (stored.machine, stored.summary) == (machine, {"ttft": {"p50": 0.1}})
        assert stored.finished_at is not None
        assert stored.finished_at >= stored.started_at
        assert stored.num_requests == 50
        assert [one.id for one in store.runs()] == [run, other]
        assert [one.id for one in store.runs(kind="optimize")] == [other]
        assert store.requests(other) == []


def test_memories(tmp_path: Path) -> None:
    with ResultStore(tmp_path / "a.sqlite") as store:
        store.remember("candidate", "a", {"x": 1})
        store.remember("candidate", "b", {"x": 2})
        store.remember("candidate", "a", {"x": 3})
        store.remember("other", "a", {})
        assert store.recall("candidate") == {"a": {"x": 3}, "b": {"x": 2}}
        assert store.recall("nothing") == {}


def test_a_killed_process_loses_no_record_that_was_taken(tmp_path: Path) -> None:
    path = tmp_path / "results.sqlite"
    command = [sys.executable, "-c", WRITER, str(path), "killed", "1000000"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        told = [process.stdout.readline() for _ in range(300)]
        os.kill(process.pid, signal.SIGKILL)
        told += process.stdout.readlines()
    taken = [tuple(map(int, line.split())) for line in told if line.endswith("\n")]
    run = taken[0][0]
    with ResultStore(path, read_only=True) as store:
        present = [one.index for one in store.requests(run)]
        assert present[: len(taken)] == [index for _, index in taken]
        assert len(present) <= len(taken) + 1
        assert len(store.samples(run)) >= len(taken)
        assert store.run(run).finished_at is None
    with ResultStore(path) as store:  # and it can be written on
        store.add_request(run, record(10**6))
        store.finish(run, {})


def test_several_processes_and_threads_write_one_file(tmp_path: Path) -> None:
    path = tmp_path / "results.sqlite"
    names = ["a", "b"]
    processes = [
        subprocess.Popen([sys.executable, "-c", WRITER, str(path), name, "100"], stdout=subprocess.DEVNULL)
        for name in names
    ]
    with ResultStore(path) as store:
        run = store.begin("serve", "threads", {}, {})
        threads = [
            threading.Thread(target=lambda i=i: [store.add_request(run, record(j)) for j in range(i, 100, 2)])
            for i in range(2)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [process.wait(timeout=60) for process in processes] == [0, 0]
        assert {one.name: one.num_requests for one in store.runs()} == {"a": 100, "b": 100, "threads": 100}
        assert store.requests(run) == [record(index) for index in range(100)]


def test_two_first_processes_take_turns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While another one makes the file, SQLite refuses at once, whatever its timeout."""
    path = tmp_path / "results.sqlite"
    other = sqlite3.connect(path, isolation_level=None)
    tries: list[float] = []

    def sleep(seconds: float) -> None:
        tries.append(seconds)
        if len(tries) == 3:
            other.execute("ROLLBACK")

    monkeypatch.setattr(result_store.time, "sleep", sleep)
    other.execute("BEGIN IMMEDIATE")
    with ResultStore(path) as store:
        assert len(tries) == 3
        assert store.begin("serve", "second", {}, {}) == 1
    other.close()


def test_a_file_that_stays_locked_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "results.sqlite"
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    monkeypatch.setattr(result_store, "BUSY_S", 0.0)
    with pytest.raises(ConfigError, match="locked"):
        ResultStore(path)
    other.close()


def test_a_reader_sees_what_a_writer_has_just_written(tmp_path: Path) -> None:
    path = tmp_path / "results.sqlite"
    with ResultStore(path) as writer:
        run = writer.begin("serve", "live", {}, {})
        with ResultStore(path, read_only=True) as reader:
            writer.add_request(run, record(0))
            assert reader.run(run).num_requests == 1
            with pytest.raises(ConfigError, match="readonly"):
                reader.add_request(run, record(1))


def test_a_missing_file_or_run_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no results at"):
        ResultStore(tmp_path / "none.sqlite", read_only=True)
    with ResultStore(tmp_path / "a.sqlite") as store:
        for call in (lambda: store.run(7), lambda: store.finish(7, {}), lambda: store.add_request(7, record(0))):
            with pytest.raises(ConfigError, match=r"no .*run"):
                call()


def test_a_newer_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.sqlite"
    ResultStore(path).close()
    connection = sqlite3.connect(path)
    connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    connection.close()
    for read_only in (False, True):
        with pytest.raises(ConfigError, match="newer Vivace"):
            ResultStore(path, read_only=read_only)


def test_a_file_of_another_program_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "a.sqlite"
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE runs (x)")
    connection.close()
    with pytest.raises(ConfigError, match="another program"):
        ResultStore(path)
    connection = sqlite3.connect(path)
    assert [name for (name,) in connection.execute("SELECT name FROM sqlite_master")] == ["runs"]
    connection.close()


@pytest.mark.parametrize(
    "content", [b"not a database, but long enough to be taken for one" * 40, b"SQLite format 3\0"]
)
def test_a_file_that_is_no_database_is_told(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.sqlite"
    path.write_bytes(content)
    for read_only in (False, True):
        with pytest.raises(ConfigError):
            ResultStore(path, read_only=read_only)
    assert path.read_bytes() == content


@pytest.mark.parametrize("seed", range(20))
def test_a_damaged_file_is_told_or_read(tmp_path: Path, seed: int) -> None:
    """Bytes overturned anywhere: either our error, or records; never another exception."""
    path, random_ = tmp_path / "a.sqlite", random.Random(seed)
    with ResultStore(path) as store:
        run = store.begin("serve", "chat", {"a": 1}, {})
        for index in range(100):
            store.add_request(run, record(index))
    data = bytearray(path.read_bytes())
    for _ in range(200):
        data[random_.randrange(len(data))] = random_.randrange(256)
    if seed % 2:
        del data[random_.randrange(len(data)) :]
    path.write_bytes(data)
    with suppress(ConfigError), ResultStore(path) as store:
        for one in store.runs():
            store.requests(one.id)
            store.samples(one.id)


def test_nothing_can_be_kept_below_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot keep results"):
        ResultStore(tmp_path / "file" / "a.sqlite")
    with pytest.raises(ConfigError, match="cannot use"):
        ResultStore(tmp_path)


def test_default_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("VIVACE_STORE", "XDG_DATA_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_store_path() == tmp_path / ".local/share/vivace/results.sqlite"
    monkeypatch.setenv("XDG_DATA_HOME", "relative")
    assert default_store_path() == tmp_path / ".local/share/vivace/results.sqlite"
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    assert default_store_path() == tmp_path / "data/vivace/results.sqlite"
    monkeypatch.setenv("VIVACE_STORE", "here.sqlite")
    assert default_store_path() == Path("here.sqlite")


def test_header_names_the_program(tmp_path: Path) -> None:
    path = tmp_path / "a.sqlite"
    ResultStore(path).close()
    assert int.from_bytes(path.read_bytes()[68:72], "big") == APPLICATION_ID
