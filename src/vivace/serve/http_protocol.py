"""uvicorn's HTTP/1.1 protocol with bounds on everything that a connection can send, hold or delay.

A connection reads a head (request line and headers), then a body, then waits for its answer. Head and body have a
deadline each; an answer that its reader does not take has one as well. What breaks a bound is answered in OpenAI's
error shape and closed. A time that is over is looked at twice: on a machine that stood still timers come before what
has lain in the socket all along.
"""

from __future__ import annotations

import asyncio
import logging
import re
from enum import Enum
from typing import Any, cast

import httptools
import msgspec
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol
from uvicorn.server import ServerState

from vivace.serve.config import ServeConfig
from vivace.serve.errors import HttpError, error_body
from vivace.serve.metrics.http_metrics import OTHER, UNMATCHED, HttpMetrics
from vivace.serve.metrics.middleware import REFUSED_STATUS
from vivace.serve.request_scope import new_request_id

WRITE_BUFFER_BYTES = 64 * 1024
LINGER_S = 2.0  # a refusal is lost where the connection is closed under a client that is still sending
SPARE_CONNECTIONS = 256  # beyond the bound: these are told so, further ones only closed
LAST_LOOK_S = 0.05  # once a time is over; the loop reads its sockets meanwhile
FRAMING_BYTES = 64 * 1024  # chunk sizes and trailers that any body may have, and half its own length more

access_logger = logging.getLogger("vivace.access")

_HOST = re.compile(rb"[A-Za-z0-9._~:\[\]-]+")


class Phase(Enum):
    """What is read now."""

    IDLE = "idle"  # between requests, or before the first
    HEAD = "head"
    BODY = "body"
    REFUSED = "refused"  # nothing any more: what still comes is thrown away


class _Stop(Exception):  # noqa: N818
    """Ends the parser from within a callback."""


class HttpProtocol(HttpToolsProtocol):
    """One connection."""

    def __init__(self, limits: ServeConfig, metrics: HttpMetrics, config: Config, server_state: ServerState) -> None:
        super().__init__(config, server_state, {})
        self._limits = limits
        self._metrics = metrics
        self._began = metrics.clock()  # of what is read now
        self._method = OTHER
        self._phase = Phase.IDLE
        self._refusal: HttpError | None = None
        self._is_replaying = False  # a head that has been taken already
        self._num_head_bytes = 0  # raw, of a head that is not complete
        self._num_headers = 0
        self._num_header_bytes = 0
        self._num_raw_bytes = 0  # of the request whose body is read
        self._num_body_bytes = 0
        self._deadline: asyncio.TimerHandle | None = None  # of head or body
        self._stall: asyncio.TimerHandle | None = None  # of the reader of our answer

    # --- the connection -------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        transport.set_write_buffer_limits(high=WRITE_BUFFER_BYTES)
        num_over = len(self.connections) - self._limits.max_connections
        if num_over > SPARE_CONNECTIONS:
            transport.abort()
        elif num_over > 0:
            self._refuse(HttpError(503, "too many connections", headers={"Retry-After": "1"}))
        else:
            self._set_deadline(self._limits.header_timeout_s)

    def connection_lost(self, exc: Exception | None) -> None:
        self._phase = Phase.REFUSED
        for timer in (self._deadline, self._stall, self.timeout_keep_alive_task):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._has_given_up:
            return
        self._unset_keepalive_if_required()
        if not self._num_head_bytes and self._phase is Phase.IDLE:
            self._began, self._method = self._metrics.clock(), OTHER
        self._num_raw_bytes += len(data)
        self._num_head_bytes += len(data)
        try:
            self._feed(data)
        except httptools.HttpParserError as error:
            if not self._has_given_up:
                self._refuse(self._refusal or HttpError(400, f"this is not HTTP: {error}", code="invalid_http"))
        else:
            self._check_raw_bytes(len(data))

    def _feed(self, data: bytes) -> None:
        """Parse, declining every upgrade. Java's client offers one (h2c) with each request."""
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:  # the parser takes the body for another protocol's data
            self.parser = httptools.HttpRequestParser(self)
            if self._phase is Phase.BODY:
                self._is_replaying = True
                self.parser.feed_data(_framing_head(self.headers))
                self._is_replaying = False
            rest = data[upgrade.args[0] :]
            if rest:
                self._feed(rest)

    @property
    def _is_answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    @property
    def _is_answered(self) -> bool:
        """Whether the request whose body still comes has its whole answer."""
        return self._phase is Phase.BODY and self.cycle.response_complete

    @property
    def _has_given_up(self) -> bool:
        return self._phase is Phase.REFUSED

    def pause_writing(self) -> None:
        super().pause_writing()
        self._stall = self.loop.call_later(self._limits.send_timeout_s, self._look_at_reader_again)

    def resume_writing(self) -> None:
        if self._stall is not None:
            self._stall.cancel()
            self._stall = None
        super().resume_writing()

    def timeout_keep_alive_handler(self) -> None:
        self.timeout_keep_alive_task = self.loop.call_later(LAST_LOOK_S, self._close)

    def shutdown(self) -> None:
        """The server is draining: this answer is the connection's last."""
        if self._is_answering:
            self.cycle.keep_alive = False
        elif self._phase is Phase.IDLE:
            self._close()

    def cut(self) -> None:
        """The server ends: a running answer breaks off, a complete one still goes out."""
        if self._is_answering:
            self.transport.abort()
        else:
            self._close()

    # --- the parser's callbacks -----------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        if self._is_replaying:
            return
        if self._is_answering:
            # Pipelined. HTTP lets us answer the first and close; queueing would hide the client's departure.
            self.cycle.keep_alive = False
            self._phase = Phase.REFUSED
            raise _Stop
        self._phase = Phase.HEAD
        self._num_headers = self._num_header_bytes = self._num_body_bytes = 0
        if self._deadline is None:
            self._set_deadline(self._limits.header_timeout_s)
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        if not self._is_replaying:
            super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._is_replaying:
            return
        self._num_headers += 1
        self._num_header_bytes += len(name) + len(value) + 4
        if self._num_headers > self._limits.max_headers or self._num_header_bytes > self._limits.max_header_bytes:
            self._stop(self._head_too_large())
        if self._phase is Phase.HEAD:  # in the body it is a trailer, which must not become a header
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        if self._is_replaying:
            return
        self._method = self.parser.get_method().decode("ascii")
        self._check_head()
        self._phase = Phase.BODY
        self._num_head_bytes = 0
        self._set_deadline(self._limits.body_timeout_s)
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._num_body_bytes += len(body)
        if self.cycle.response_complete and self._num_body_bytes > 2 * self._limits.max_body_bytes:
            self._close()  # answered long ago, and still sending
            raise _Stop
        super().on_body(body)

    def on_message_complete(self) -> None:
        if self.parser.should_upgrade() and _framing_head(self.headers):
            return  # the body is still to come, see `_feed`
        self._phase = Phase.IDLE
        self._num_head_bytes = self._num_raw_bytes = 0
        self._clear_deadline()
        super().on_message_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.transport.is_closing():
            self._abandon_later()
        elif self._phase is Phase.REFUSED:
            self._close()
        elif self._phase is Phase.BODY:  # answered before its body had come: the rest is thrown away
            self._set_deadline(LINGER_S)

    # --- bounds ---------------------------------------------------------------------------------------------------

    def _check_head(self) -> None:
        headers: dict[bytes, list[bytes]] = {}
        for name, value in self.headers:
            headers.setdefault(name, []).append(value)
        if len(self.url) + self._num_header_bytes > self._limits.max_header_bytes:
            self._stop(self._head_too_large())
        if not self.url.isascii() or not self.url.startswith((b"/", b"http://", b"https://")):
            self._stop(HttpError(400, "the request's target must be a path", code="invalid_http"))
        hosts = headers.get(b"host", [])
        needs_host = self.parser.get_http_version() != "1.0"
        if len(hosts) > 1 or (needs_host and not hosts) or any(not _HOST.fullmatch(host) for host in hosts):
            self._stop(HttpError(400, "the request needs one valid Host header", code="invalid_http"))
        if headers.get(b"transfer-encoding", [b"chunked"]) != [b"chunked"]:
            self._stop(HttpError(400, "the only Transfer-Encoding is chunked", code="invalid_http"))
        length = headers.get(b"content-length", [b"0"])
        if len(length) > 1 or not length[0].isdigit():
            self._stop(HttpError(400, "the request needs one valid Content-Length", code="invalid_http"))
        if len(length[0]) > 19 or int(length[0]) > self._limits.max_body_bytes:
            limit = self._limits.max_body_bytes
            self._stop(HttpError(413, f"the body may have {limit} bytes at most", code="body_too_large"))

    def _check_raw_bytes(self, num_new: int) -> None:
        """What the parser keeps to itself: a head without end, chunk sizes, trailers, blank lines."""
        if self._phase in (Phase.HEAD, Phase.IDLE) and self._num_head_bytes > self._limits.max_header_bytes:
            self._refuse(self._head_too_large())
        elif self._phase is Phase.IDLE and self._num_head_bytes and not self._deadline and not self._is_answering:
            self._set_deadline(self._limits.header_timeout_s)
        elif self._phase is Phase.BODY:
            num_framing = self._num_raw_bytes - num_new - self._num_body_bytes - self._num_header_bytes
            if num_framing > FRAMING_BYTES + self._num_body_bytes // 2:
                self._refuse(
                    HttpError(400, "the chunks are too small, or the trailers too long", code="invalid_http")
                )

    def _head_too_large(self) -> HttpError:
        limits = self._limits
        return HttpError(431, f"at most {limits.max_headers} headers with {limits.max_header_bytes} bytes in all")

    def _stop(self, refusal: HttpError) -> None:
        """From within a callback: `data_received` goes on with the refusal."""
        self._refusal = refusal
        raise _Stop

    # --- ends -----------------------------------------------------------------------------------------------------

    def _refuse(self, error: HttpError) -> None:
        """Answer and close; a request that runs on this connection ends as if its client had left."""
        is_answered = self._is_answered
        self._phase = Phase.REFUSED
        self._clear_deadline()
        if is_running := self._is_answering:
            is_answered = self.cycle.response_started
            cast(dict[str, Any], self.cycle.scope)[REFUSED_STATUS] = error.status_code
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        if is_answered or self.transport.is_closing():  # a second answer would be taken for the next request's
            self._close()
            return
        if not is_running:  # else the application's own layer counts it
            self._metrics.answered(UNMATCHED, self._method, error.status_code, self._metrics.clock() - self._began)
        request_id = new_request_id()
        self.transport.write(_refusal_bytes(error, request_id))
        fields: dict[str, Any] = {"status": error.status_code, "reason": error.detail}
        if self.client:
            fields["client"] = self.client[0]
        access_logger.info("refused", extra={"fields": {"request_id": request_id, **fields}})
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self._deadline = self.loop.call_later(LINGER_S, self._abandon)

    def _on_deadline(self) -> None:
        self._deadline = None
        if self._phase is Phase.IDLE and self._num_head_bytes == 0:
            self._close()
        else:
            part = "body" if self._phase is Phase.BODY else "headers"
            self._refuse(HttpError(408, f"the request's {part} did not arrive in time"))

    def _close(self) -> None:
        """Close when what was written is out, or when that takes too long."""
        self._phase = Phase.REFUSED
        self._clear_deadline()
        self.transport.close()
        self._abandon_later()

    def _abandon_later(self) -> None:
        self._clear_deadline()
        self._deadline = self.loop.call_later(self._limits.send_timeout_s, self._abandon)

    def _abandon(self) -> None:
        self.transport.abort()

    def _set_deadline(self, seconds: float) -> None:
        self._clear_deadline()
        self._deadline = self.loop.call_later(seconds, self._look_at_sender_again)

    def _look_at_sender_again(self) -> None:
        self._deadline = self.loop.call_later(LAST_LOOK_S, self._on_deadline)

    def _look_at_reader_again(self) -> None:
        self._stall = self.loop.call_later(LAST_LOOK_S, self._abandon)

    def _clear_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None


def _framing_head(headers: list[tuple[bytes, bytes]]) -> bytes:
    """A head with the same body length as `headers` and nothing else; empty where there is no body."""
    framing = [
        name + b": " + value + b"\r\n"
        for name, value in headers
        if name == b"transfer-encoding" or (name == b"content-length" and int(value) > 0)
    ]
    return b"POST / HTTP/1.1\r\n" + framing[0] + b"\r\n" if framing else b""


def _refusal_bytes(error: HttpError, request_id: str) -> bytes:
    body = msgspec.json.encode(error_body(error))
    headers = {
        "content-type": "application/json",
        "content-length": str(len(body)),
        "x-request-id": request_id,
        "connection": "close",
        **(error.headers or {}),
    }
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return STATUS_LINE[error.status_code] + lines.encode() + b"\r\n" + body
