"""The tables, and what is checked of a file before it is believed."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from vivace.core.errors import ConfigError

APPLICATION_ID = 0x56495641  # "VIVA" in the file's header, so that `file` and we know whose it is
SCHEMA_VERSION = 1

# `tokens_s` holds 64-bit little-endian floats; options, machine, summary, counters and values are JSON; dates are
# seconds since 1970, all other times seconds from the start of their run.
TABLES = (
    """CREATE TABLE runs (
        id INTEGER PRIMARY KEY AUTOINCREMENT, kind TEXT NOT NULL, name TEXT NOT NULL, version TEXT NOT NULL,
        command TEXT NOT NULL, options TEXT NOT NULL, machine TEXT NOT NULL,
        started_at REAL NOT NULL, finished_at REAL, summary TEXT)""",
    """CREATE TABLE requests (
        run INTEGER NOT NULL REFERENCES runs(id), request INTEGER NOT NULL,
        intended_s REAL NOT NULL, sent_s REAL NOT NULL, ended_s REAL NOT NULL, status TEXT NOT NULL,
        prompt_len INTEGER NOT NULL, output_len INTEGER NOT NULL, tokens_s BLOB NOT NULL,
        queue_s REAL, num_cached_tokens INTEGER, error TEXT)""",
    "CREATE INDEX requests_of_run ON requests (run, request)",
    """CREATE TABLE samples (
        run INTEGER NOT NULL REFERENCES runs(id), time_s REAL NOT NULL,
        num_running REAL, num_waiting REAL, kv_usage REAL, resident_bytes REAL, counters TEXT NOT NULL)""",
    "CREATE INDEX samples_of_run ON samples (run, time_s)",
    """CREATE TABLE memories (
        kind TEXT NOT NULL, key TEXT NOT NULL, value TEXT NOT NULL, PRIMARY KEY (kind, key))""",
)


def check(connection: sqlite3.Connection, path: Path) -> bool:
    """Whether the tables are there. Raises `ConfigError` for a file of somebody else or of a newer Vivace."""
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    (num_tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if application == version == num_tables == 0:
        return False
    if application != APPLICATION_ID:
        raise ConfigError(f"{path} is a database of another program: name another file for the results")
    if version > SCHEMA_VERSION:
        raise ConfigError(
            f"{path} was written by a newer Vivace (its schema is {version}, this one knows {SCHEMA_VERSION}): "
            "upgrade, or name another file for the results"
        )
    return True


def create(connection: sqlite3.Connection) -> None:
    """The tables, all or none of them. Inside a transaction of the caller."""
    for statement in TABLES:
        connection.execute(statement)
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
