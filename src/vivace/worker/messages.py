"""What front and engine say to each other. Arrays with a tag in front; a field is only ever added at the end."""

from __future__ import annotations

import msgspec

from vivace.core.account import RequestAccount
from vivace.core.config import EngineConfig
from vivace.core.events import TokenEvent, TokenLogprobs
from vivace.schedule.block_map import BlockMap
from vivace.worker.info import EngineGauges, EngineInfo
from vivace.worker.job import Job


class ErrorData(msgspec.Struct, array_like=True):
    """An error of `vivace.core.errors` as data: its class by name, and what its constructor takes."""

    kind: str
    message: str
    param: str | None = None
    path: str | None = None
    field: str | None = None
    offset: int | None = None


class Configure(msgspec.Struct, array_like=True, tag=1):
    """The first command: load this."""

    config: EngineConfig


class Submit(msgspec.Struct, array_like=True, tag=2):
    """`emitted` comes from the journal when the engine was restarted: each continuation's tokens, None: finished.

    A suspect was in an engine that died; nobody begins while it has not shown that it does no harm.
    """

    job: Job
    emitted: list[list[int] | None] | None = None
    is_suspect: bool = False


class Abort(msgspec.Struct, array_like=True, tag=3):
    request_id: str


class Stop(msgspec.Struct, array_like=True, tag=4):
    """The text of one continuation reached a stop string."""

    request_id: str
    index: int
    reason: str


class Survey(msgspec.Struct, array_like=True, tag=5):
    """How do the KV blocks stand? Answered with `Surveyed`."""


class Explain(msgspec.Struct, array_like=True, tag=6):
    """What of this request? Answered with `Explained`."""

    request_id: str


class Loading(msgspec.Struct, array_like=True, tag=16):
    """Parameters packed, and parameters in all."""

    done: int
    total: int


class Ready(msgspec.Struct, array_like=True, tag=17):
    info: EngineInfo


class Failed(msgspec.Struct, array_like=True, tag=18):
    """The last report: the engine could not be loaded, or broke. `trace` is for the log."""

    error: ErrorData
    trace: str | None = None


class Refused(msgspec.Struct, array_like=True, tag=19):
    """The engine will not serve this request."""

    request_id: str
    error: ErrorData


class PromptScores(msgspec.Struct, array_like=True, tag=20):
    """The next of a prompt's log probabilities, in order; all of them come before its first event."""

    request_id: str
    logprobs: list[TokenLogprobs | None]


class Pooled(msgspec.Struct, array_like=True, tag=21):
    """The embedding of a prompt; comes before its only event."""

    request_id: str
    embedding: list[float]


class Started(msgspec.Struct, array_like=True):
    """Comes with the first event of a request. Seconds on the machine's monotonic clock."""

    request_id: str
    admitted: float | None
    first_token: float | None
    num_cached_tokens: int


class Ended(msgspec.Struct, array_like=True):
    """Comes with the last event of a request."""

    request_id: str
    finished: float | None
    num_preemptions: int
    account: RequestAccount | None = None


class Step(msgspec.Struct, array_like=True, tag=22):
    """All that one step brought; sent after every step, and so the sign of life too."""

    events: list[TokenEvent]
    started: list[Started]
    ended: list[Ended]
    gauges: EngineGauges


class Surveyed(msgspec.Struct, array_like=True, tag=23):
    blocks: BlockMap


class Explained(msgspec.Struct, array_like=True, tag=24):
    """`account` is None where the engine does not know the request (any more, or yet)."""

    request_id: str
    account: RequestAccount | None


Command = Configure | Submit | Abort | Stop | Survey | Explain
Report = Loading | Ready | Failed | Refused | PromptScores | Pooled | Step | Surveyed | Explained
