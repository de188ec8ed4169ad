"""Who asks, as the routes see it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from starlette.requests import Request

TRACE_HEADERS = ("traceparent", "tracestate")


@dataclass(frozen=True, slots=True)
class Caller:
    """`request_id` is the server's own, `key` the unit of fairness; `log` goes into the access log's line."""

    request_id: str
    key: str
    salt: bytes
    arrival: float  # monotonic clock
    log: dict[str, Any] = field(default_factory=dict)
    path: str = ""
    trace: Mapping[str, str] = field(default_factory=dict)  # headers that may name a trace, as W3C has them

    @classmethod
    def of(cls, request: Request) -> Caller:
        state = request.state
        trace = {name: request.headers[name] for name in TRACE_HEADERS if name in request.headers}
        path = request.scope["path"]
        return cls(state.request_id, state.api_key.name, state.api_key.salt, state.arrival, state.log, path, trace)

    def answer_id(self, prefix: str) -> str:
        """An answer's id, from which the request's is seen."""
        return f"{prefix}-{self.request_id.removeprefix('req-')}"
