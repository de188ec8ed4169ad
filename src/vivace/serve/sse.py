"""Server-sent events: the stream of an answer, written as its reader takes it."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from vivace.serve.disconnect import run_until_disconnected
from vivace.serve.errors import error_body

DONE = b"data: [DONE]\n\n"
HEADERS = {
    "Cache-Control": "no-cache",
    "X-Accel-Buffering": "no",  # a proxy must not gather events
}
_ENCODER = msgspec.json.Encoder()


def data_event(value: msgspec.Struct) -> bytes:
    """One unnamed event. JSON has no raw line ends, so it is always one line."""
    return b"data: " + _ENCODER.encode(value) + b"\n\n"


def named_event(name: str, value: object) -> bytes:
    return b"event: " + name.encode() + b"\ndata: " + _ENCODER.encode(value) + b"\n\n"


def error_event(error: BaseException) -> bytes:
    """An error after the stream began, in OpenAI's shape; the official clients raise it."""
    return named_event("error", error_body(error))


class EventStream(Response):
    """Sends events as they come, one write for all that are there. Ends its work when the client leaves.

    Make it with `open_stream`. `send` waits while the client's buffer is full, so the events wait as well.
    """

    media_type = "text/event-stream"

    def __init__(self, request: Request, first: bytes, events: AsyncGenerator[bytes, None]) -> None:
        super().__init__(headers=HEADERS)
        del self.headers["content-length"]
        self._request = request
        self._first = first
        self._events = events

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002
        async with aclosing(self._events):
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            await run_until_disconnected(self._request, self._write(scope["state"].get("plain_send", send)))

    async def _write(self, send: Send) -> None:
        """The error that ends the events is the last of them; an error of `send` is none of theirs."""
        event: bytes | None = self._first
        while event is not None:
            await send({"type": "http.response.body", "body": event, "more_body": True})
            try:
                event = await anext(self._events, None)
            except Exception as error:
                await send({"type": "http.response.body", "body": error_event(error), "more_body": True})
                break
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def open_stream(request: Request, events: AsyncGenerator[bytes, None]) -> EventStream:
    """The response for `events`, once the first is there: what fails before it still gets its own status."""
    try:
        first = await run_until_disconnected(request, _first(events))
    except BaseException:
        await events.aclose()
        raise
    return EventStream(request, first, events)


async def _first(events: AsyncGenerator[bytes, None]) -> bytes:
    return await anext(events)
