"""The file of results. What an `add_...` has returned from survives the end of the process, however it ends.

SQLite with a write-ahead log: a commit is in the kernel's hands when it returns, so that only a power cut can lose
the last seconds; readers never wait for the writer, and writers of other processes wait their turn.
"""

from __future__ import annotations

import random
import sqlite3
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from vivace import __version__
from vivace.bench.records import RequestRecord, ServerSample
from vivace.bench.store import rows, schema
from vivace.bench.store.command_line import shown_command
from vivace.core.errors import ConfigError

BUSY_S = 30.0  # what a writer waits for another process's commit; one takes well under a millisecond
FIRST_PAUSE_S, MOST_PAUSE_S = 0.01, 0.1  # between tries to switch a new file's journal

Row = TypeVar("Row")


class ResultStore:
    """Runs with their requests and samples, and what the optimiser remembers. Safe for several threads and processes.

    `read_only` opens what is there and changes nothing, also on read-only media. Raises `ConfigError`, from every
    method: for a file that is damaged, of another program or of a newer Vivace, for a place where nothing can be
    written, for a run that is not there.
    """

    def __init__(self, path: str | PathLike[str], *, read_only: bool = False) -> None:
        self.path = Path(path)
        self._lock = threading.Lock()
        self._connection = _read_only(self.path) if read_only else _writable(self.path)

    def __enter__(self) -> ResultStore:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._connection.close()

    def begin(
        self,
        kind: str,
        name: str,
        options: Mapping[str, Any],
        machine: Mapping[str, Any],
        *,
        command: str | None = None,
    ) -> int:
        """The number of a new run. `command`: what made it, for the report; by default this process's own, without
        its secrets."""
        command = shown_command(sys.argv) if command is None else command
        texts = rows.json_text(options), rows.json_text(machine)
        values = (kind, name, __version__, command, *texts, time.time())
        return self._write(
            "INSERT INTO runs (kind, name, version, command, options, machine, started_at) VALUES (?,?,?,?,?,?,?)",
            values,
        )

    def add_request(self, run: int, record: RequestRecord) -> None:
        self._write(
            f"INSERT INTO requests (run, {rows.REQUEST_COLUMNS}) VALUES (?,?,?,?,?,?,?,?,?,?,?,?)",
            (run, *rows.request_row(record)),
        )

    def add_sample(self, run: int, sample: ServerSample) -> None:
        self._write(
            f"INSERT INTO samples (run, {rows.SAMPLE_COLUMNS}) VALUES (?,?,?,?,?,?,?)",
            (run, *rows.sample_row(sample)),
        )

    def finish(self, run: int, summary: Mapping[str, Any]) -> None:
        """The run is over; it can be told again, the last word stands."""
        self.run(run)
        values = time.time(), rows.json_text(summary), run
        self._write("UPDATE runs SET finished_at = ?, summary = ? WHERE id = ?", values)

    def runs(self, *, kind: str | None = None) -> list[rows.StoredRun]:
        """Every run, or those of a kind, the oldest first."""
        where, values = ("", ()) if kind is None else ("WHERE kind = ?", (kind,))
        return self._read(rows.stored_run, f"{_RUNS} {where} ORDER BY id", values)

    def run(self, run: int) -> rows.StoredRun:
        found = self._read(rows.stored_run, f"{_RUNS} WHERE id = ?", (run,))
        if not found:
            raise ConfigError(f"no run {run} in {self.path}; `vivace bench list` shows those that are there")
        return found[0]

    def requests(self, run: int) -> list[RequestRecord]:
        """In the order of the traffic."""
        query = f"SELECT {rows.REQUEST_COLUMNS} FROM requests WHERE run = ? ORDER BY request, rowid"
        return self._read(rows.request_record, query, (run,))

    def samples(self, run: int) -> list[ServerSample]:
        """In the order of time."""
        query = f"SELECT {rows.SAMPLE_COLUMNS} FROM samples WHERE run = ? ORDER BY time_s, rowid"
        return self._read(rows.server_sample, query, (run,))

    def remove(self, runs: Collection[int]) -> None:
        """Forget these runs with their requests and samples, all of them or none, and give their space back."""
        with self._lock, _explained(self.path):
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                for statement in _REMOVALS:
                    self._connection.executemany(statement, [(run,) for run in runs])
            except BaseException:
                self._connection.execute("ROLLBACK")
                raise
            self._connection.execute("COMMIT")
            self._connection.execute("VACUUM")

    def remember(self, kind: str, key: str, value: Mapping[str, Any]) -> None:
        """Keep `value` under a name; the last one stands."""
        self._write(
            "INSERT OR REPLACE INTO memories (kind, key, value) VALUES (?,?,?)", (kind, key, rows.json_text(value))
        )

    def recall(self, kind: str) -> dict[str, dict[str, Any]]:
        """All that was remembered of a kind, by key."""
        query = "SELECT key, value FROM memories WHERE kind = ? ORDER BY rowid"
        return dict(self._read(lambda row: (row[0], rows.json_object(row[1])), query, (kind,)))

    def _write(self, statement: str, values: Sequence[Any]) -> int:
        """One statement, one transaction. Returns the number of the row."""
        with self._lock, _explained(self.path):
            return self._connection.execute(statement, values).lastrowid or 0

    def _read(self, convert: Callable[[Sequence[Any]], Row], query: str, values: Sequence[Any]) -> list[Row]:
        with self._lock, _explained(self.path):
            return [convert(row) for row in self._connection.execute(query, values)]


_REMOVALS = (
    "DELETE FROM requests WHERE run = ?",
    "DELETE FROM samples WHERE run = ?",
    "DELETE FROM runs WHERE id = ?",
)
_RUNS = f"SELECT {rows.RUN_COLUMNS}, (SELECT count(*) FROM requests WHERE run = runs.id) FROM runs"


def _writable(path: Path) -> sqlite3.Connection:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"cannot keep results in {path.parent}: {error.strerror}") from None
    with _explained(path):
        connection = _connected(path.absolute().as_uri())
    try:
        with _explained(path):
            _log_ahead(connection)
            connection.execute("PRAGMA synchronous = NORMAL")
            connection.execute("PRAGMA foreign_keys = ON")
            connection.execute("BEGIN IMMEDIATE")  # two first processes: one makes the tables, the other finds them
            if not schema.check(connection, path):
                schema.create(connection)
            connection.execute("COMMIT")
    except BaseException:
        connection.close()
        raise
    return connection


def _log_ahead(connection: sqlite3.Connection) -> None:
    """Switch a new file's journal. SQLite asks for the whole file from a lock that it holds already, and there it
    does not wait for another process that does the same: who is refused has to try again."""
    deadline, pause_s = time.monotonic() + BUSY_S, FIRST_PAUSE_S
    connection.execute(f"PRAGMA busy_timeout = {int(1e3 * FIRST_PAUSE_S)}")  # two that wait for each other part soon
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")  # stays what it was where the file system cannot
            break
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() >= deadline:
                raise
        time.sleep(pause_s * random.uniform(0.5, 1.0))
        pause_s = min(2 * pause_s, MOST_PAUSE_S)
    connection.execute(f"PRAGMA busy_timeout = {int(1e3 * BUSY_S)}")


def _read_only(path: Path) -> sqlite3.Connection:
    if not path.is_file():
        raise ConfigError(f"no results at {path}: `vivace bench serve` makes some, --store names another file")
    uri = path.absolute().as_uri()
    try:
        return _checked(path, f"{uri}?mode=ro")
    except ConfigError:
        # On media where no log can be made beside it, a file without one is complete and will not change.
        if path.with_name(path.name + "-wal").exists():
            raise
        return _checked(path, f"{uri}?mode=ro&immutable=1")


def _checked(path: Path, uri: str) -> sqlite3.Connection:
    with _explained(path):
        connection = _connected(uri)
        try:
            if not schema.check(connection, path):
                raise ConfigError(f"{path} is empty: no run has begun in it")
        except BaseException:
            connection.close()
            raise
    return connection


def _connected(uri: str) -> sqlite3.Connection:
    return sqlite3.connect(uri, uri=True, timeout=BUSY_S, isolation_level=None, check_same_thread=False)


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """SQLite's errors as ours, with what to do."""
    try:
        yield
    except sqlite3.IntegrityError as error:
        raise ConfigError(f"{path} has no such run ({error})") from None
    except sqlite3.OperationalError as error:
        raise ConfigError(f"cannot use {path} for results: {error}") from None
    except (sqlite3.DatabaseError, ValueError, TypeError) as error:
        raise ConfigError(
            f"{path} is damaged or no file of results ({error}): move it away to start anew; "
            "`sqlite3 FILE .recover` may still read it"
        ) from None
