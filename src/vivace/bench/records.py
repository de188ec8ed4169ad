"""What a run of traffic leaves behind: a record for every request, a sample of the server now and then."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

Status = Literal["ok", "refused", "cancelled", "error"]


@dataclass(frozen=True, slots=True)
class RequestRecord:
    """Times are seconds from the start of the run, on one monotonic clock of the client.

    Latency counts from `intended_s`, the moment at which the traffic wanted the request sent, not from `sent_s`, when
    it was sent first: a generator that is held up must not hide a server's queue (coordinated omission).
    """

    index: int
    intended_s: float
    sent_s: float
    ended_s: float
    status: Status
    prompt_len: int
    output_len: int  # tokens that came
    token_s: tuple[float, ...] = ()  # when each token came; those of one chunk share their time
    queue_s: float | None = None  # as told by the server
    num_cached_tokens: int | None = None
    error: str | None = None


@dataclass(frozen=True, slots=True)
class ServerSample:
    """The server at one moment; None where it does not tell. `kv_usage` and rates are shares from 0 to 1."""

    time_s: float
    num_running: float | None = None
    num_waiting: float | None = None
    kv_usage: float | None = None
    resident_bytes: float | None = None
    counters: dict[str, float] = field(default_factory=dict)  # by metric, since its start
