"""What surrounds every request: its id, its arrival, its line in the log, and the net under every error."""

from __future__ import annotations

import logging
import re
import secrets
import time
from typing import Any

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from vivace.serve.errors import error_response
from vivace.serve.lifecycle import OPEN_PATHS
from vivace.serve.logs import current_request_id

logger = logging.getLogger("vivace.serve")
access_logger = logging.getLogger("vivace.access")

CLIENT_GONE = 499  # nginx's number, for the log only: nobody is there to read an answer
_HARMLESS_ID = re.compile(rb"[A-Za-z0-9._:-]{1,128}")


def new_request_id() -> str:
    """Ours always: 96 random bits. What a client sends as an id may come twice."""
    return f"req-{secrets.token_hex(12)}"


class RequestScope:
    """ASGI, outermost. Sets `request.state.request_id`, `.arrival` (monotonic clock), `.plain_send` and `.log`.

    `.log` is a dict that routes may fill (num_prompt_tokens, num_generated_tokens, model, ...): it is part of the
    access line. A client's own X-Client-Request-Id or X-Request-Id comes back as X-Client-Request-Id if harmless.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        exchange = _Exchange(scope, send)
        current_request_id.set(exchange.request_id)
        try:
            await self.app(scope, receive, exchange.send)
        except ClientDisconnect:
            exchange.gone = True
        except Exception as error:
            response = error_response(error, exchange.request_id)  # logs what nobody meant to raise
            if exchange.status is None:
                await response(scope, receive, exchange.send)
            # else the connection is closed without the end of the answer: the client sees that it is cut
        finally:
            exchange.record()


class _Exchange:
    """One request and what has been sent for it."""

    def __init__(self, scope: Scope, send: Send) -> None:
        self.request_id = new_request_id()
        self.status: int | None = None
        self.gone = False
        self._scope = scope
        self._send = send
        self._arrival = time.monotonic()
        self._first_byte: float | None = None
        self._client_id = _client_id(scope)
        scope.setdefault("state", {}).update(
            request_id=self.request_id, arrival=self._arrival, log={}, plain_send=self._send_body
        )

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = [(name, value) for name, value in message.get("headers", []) if name != b"x-request-id"]
            headers.append((b"x-request-id", self.request_id.encode()))
            if self._client_id is not None:
                headers.append((b"x-client-request-id", self._client_id))
            message["headers"] = headers
            await self._send(message)
        else:
            await self._send_body(message)

    async def _send_body(self, message: Message) -> None:
        """For parts of a body: a stream may call it past the layers in between, which look at the start of an answer
        only and cost a token 3 µs."""
        if self._first_byte is None:
            self._first_byte = time.monotonic()
        await self._send(message)

    def record(self) -> None:
        """One line in the access log."""
        scope, state = self._scope, self._scope["state"]
        level = logging.DEBUG if scope["path"] in OPEN_PATHS else logging.INFO  # probes come every second
        if not access_logger.isEnabledFor(level):
            return
        line: dict[str, Any] = {
            "method": scope["method"],
            "path": scope["path"],
            "status": CLIENT_GONE if self.gone or self.status is None else self.status,
            "seconds": round(time.monotonic() - self._arrival, 6),
        }
        if self._first_byte is not None:
            line["first_byte_seconds"] = round(self._first_byte - self._arrival, 6)
        if state.get("api_key") is not None:
            line["key"] = state["api_key"].name
        if scope.get("client"):
            line["client"] = scope["client"][0]
        if self._client_id is not None:
            line["client_request_id"] = self._client_id.decode()
        access_logger.log(level, "request", extra={"fields": {**line, **state["log"]}})


def _client_id(scope: Scope) -> bytes | None:
    for wanted in (b"x-client-request-id", b"x-request-id"):
        for name, value in scope["headers"]:
            if name == wanted and _HARMLESS_ID.fullmatch(value):
                return bytes(value)
    return None
