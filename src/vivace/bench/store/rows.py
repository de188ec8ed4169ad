"""Records as rows of the tables, and back. Reading raises `ValueError` for what no version of ours has written."""

from __future__ import annotations

import json
import math
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast, get_args

import numpy as np

from vivace.bench.records import RequestRecord, ServerSample, Status

REQUEST_COLUMNS = (
    "request, intended_s, sent_s, ended_s, status, prompt_len, output_len, tokens_s, queue_s, "
    "num_cached_tokens, error"
)
SAMPLE_COLUMNS = "time_s, num_running, num_waiting, kv_usage, resident_bytes, counters"
RUN_COLUMNS = "id, kind, name, version, command, options, machine, started_at, finished_at, summary"


@dataclass(frozen=True, slots=True)
class StoredRun:
    """One run of a benchmark. Dates are seconds since 1970; `finished_at` and `summary` are None until its end."""

    id: int
    kind: str
    name: str
    version: str
    command: str
    options: dict[str, Any]
    machine: dict[str, Any]
    started_at: float
    finished_at: float | None
    summary: dict[str, Any] | None
    num_requests: int


def json_text(value: Mapping[str, Any]) -> str:
    """One line of JSON; numbers that JSON does not have become null, other objects what they call themselves."""
    return json.dumps(_plain(value), default=str, separators=(",", ":"))


def json_object(text: str) -> dict[str, Any]:
    value = json.loads(text)
    if not isinstance(value, dict):
        raise ValueError("an object was expected")
    return value


def request_row(record: RequestRecord) -> tuple[object, ...]:
    return (
        record.index, record.intended_s, record.sent_s, record.ended_s, record.status, record.prompt_len,
        record.output_len, _packed(record.token_s), record.queue_s, record.num_cached_tokens, record.error,
    )  # fmt: skip


def request_record(row: Sequence[Any]) -> RequestRecord:
    index, intended_s, sent_s, ended_s, status, prompt_len, output_len, tokens, queue_s, cached, error = row
    _expect_numbers(intended_s, sent_s, ended_s, prompt_len, output_len, 0 if queue_s is None else queue_s)
    if status not in get_args(Status):
        raise ValueError(f"unknown status {status!r}")
    return RequestRecord(
        index, intended_s, sent_s, ended_s, cast(Status, status), prompt_len, output_len, _unpacked(tokens),
        queue_s, cached, error,
    )  # fmt: skip


def sample_row(sample: ServerSample) -> tuple[object, ...]:
    gauges = sample.num_running, sample.num_waiting, sample.kv_usage, sample.resident_bytes
    return (sample.time_s, *gauges, json_text(sample.counters))


def server_sample(row: Sequence[Any]) -> ServerSample:
    time_s, running, waiting, kv_usage, resident, counters = row
    _expect_numbers(time_s, *(value for value in (running, waiting, kv_usage, resident) if value is not None))
    return ServerSample(time_s, running, waiting, kv_usage, resident, json_object(counters))


def stored_run(row: Sequence[Any]) -> StoredRun:
    """From the columns of `RUN_COLUMNS` and the number of requests."""
    identity, kind, name, version, command, options, machine, started_at, finished_at, summary, num_requests = row
    _expect_numbers(started_at, 0 if finished_at is None else finished_at)
    return StoredRun(
        identity, kind, name, version, command, json_object(options), json_object(machine), started_at, finished_at,
        None if summary is None else json_object(summary), num_requests,
    )  # fmt: skip


def _expect_numbers(*values: object) -> None:
    """SQLite holds anything anywhere."""
    for value in values:
        if not isinstance(value, (int, float)):
            raise ValueError(f"a number was expected, not {value!r:.40}")


def _packed(times: Sequence[float]) -> bytes:
    """8 bytes a token: a hundredth of what JSON would cost the load generator between two answers."""
    return array("d", times).tobytes()


def _unpacked(data: bytes) -> tuple[float, ...]:
    times = array("d")
    times.frombytes(data)
    return tuple(times)


def _plain(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {str(key): _plain(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(part) for part in value]
    return value.item() if isinstance(value, np.generic) else value
