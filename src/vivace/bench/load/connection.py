"""HTTP connections that take the time of what comes before they look at it.

When a server's step ends, all its streams get their token at once, and whoever parses the first one on the spot
makes the last one late: 300 streams of 20 µs each are 6 ms. So an arrival is stamped and put into an
inbox that is emptied when every socket that was ready has been read.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import Protocol, cast

import httptools

NO_BODY = (204, 304)


class Sink(Protocol):
    """Takes one response. `when` is the moment at which the bytes came."""

    def begin(self, status: int, headers: dict[str, str]) -> None: ...
    def receive(self, when: float, data: bytes) -> None: ...
    def end(self, when: float) -> None: ...


class ConnectionLost(ConnectionError):  # noqa: N818 - what happened, beside ConnectionResetError
    """The other side closed before the response was whole. `had_begun`: something of it had come."""

    def __init__(self, message: str, *, had_begun: bool) -> None:
        super().__init__(message)
        self.had_begun = had_begun


class Inbox:
    """What has come and was not looked at. Emptied by the event loop after it has read every ready socket."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.clock = clock
        self._arrivals: list[tuple[Connection, float, bytes | None]] = []
        self._loop = asyncio.get_running_loop()

    def put(self, connection: Connection, data: bytes | None) -> None:
        """None: the connection was lost."""
        if not self._arrivals:
            self._loop.call_soon(self._empty)
        self._arrivals.append((connection, self.clock(), data))

    def _empty(self) -> None:
        arrivals, self._arrivals = self._arrivals, []
        for connection, when, data in arrivals:
            connection.take(when, data)


class Connection(asyncio.Protocol):
    """Carries one exchange at a time, and may then carry another."""

    def __init__(self, inbox: Inbox) -> None:
        self.is_open = False
        self.was_used = False
        self._inbox = inbox
        self._transport: asyncio.Transport | None = None
        self._descriptor: int | None = None  # of a connection without TLS
        self._parser = httptools.HttpResponseParser(self)
        self._headers: dict[str, str] = {}
        self._sink: Sink | None = None
        self._done: asyncio.Future[None] | None = None
        self._when = 0.0
        self._has_head = self._has_begun = self._ends_with_connection = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by inheritance
        self.is_open = True
        if transport.get_extra_info("ssl_object") is None:
            self._descriptor = transport.get_extra_info("socket").fileno()

    def data_received(self, data: bytes) -> None:
        self._inbox.put(self, data)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        self.is_open = False
        self._inbox.put(self, None)

    def send(self, request: bytes, sink: Sink) -> asyncio.Future[None]:
        """Write a request; the future is done when its response is whole, or fails with `ConnectionLost`."""
        assert self._transport is not None
        self._sink, self._done = sink, asyncio.get_running_loop().create_future()
        self._headers, self._has_head, self._has_begun = {}, False, False
        if not self.is_open:  # its end may have been looked at before anybody waited for it
            done = self._done
            self._fail("the server closed the connection")
            return done
        left = request[self._written(request) :]
        if left:
            self._transport.write(left)
        return self._done

    def _written(self, request: bytes) -> int:
        """How much the socket took at once. uvloop writes when all that is ready has run: of requests that are due
        together, the first would wait for the last."""
        if self._descriptor is None or not self.is_open:
            return 0
        try:
            return os.write(self._descriptor, request)
        except OSError:
            return 0  # full, or closed: the transport finds out

    def close(self) -> None:
        """Leave at once, whatever is still to come."""
        self.is_open = False
        self._sink = self._done = None
        if self._transport is not None:
            self._transport.abort()

    def take(self, when: float, data: bytes | None) -> None:
        """Look at what came at that moment."""
        if self._sink is None:
            return
        self._when = when
        if data is None:
            self._take_end(when)
            return
        self._has_begun = True
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._fail(f"what came is no HTTP response ({error})")

    def _take_end(self, when: float) -> None:
        if self._has_head and self._ends_with_connection:
            self._finish(when)
        else:
            self._fail("the server closed the connection")

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if status < 200 or self._sink is None:  # 100 Continue: the response is still to come
            self._headers = {}
            return
        self._has_head = True
        framed = "content-length" in self._headers or "transfer-encoding" in self._headers or status in NO_BODY
        self._ends_with_connection = not framed
        self._sink.begin(status, self._headers)

    def on_body(self, data: bytes) -> None:
        if self._sink is not None:
            self._sink.receive(self._when, data)

    def on_message_complete(self) -> None:
        if self._has_head:
            self.is_open = self.is_open and self._parser.should_keep_alive()
            self._finish(self._when)

    def _finish(self, when: float) -> None:
        sink, done = self._sink, self._done
        self._sink, self._done, self.was_used = None, None, True
        if sink is not None:
            sink.end(when)
        if done is not None and not done.done():
            done.set_result(None)

    def _fail(self, message: str) -> None:
        done = self._done
        has_begun = self._has_begun
        self.close()
        if done is not None and not done.done():
            done.set_exception(ConnectionLost(message, had_begun=has_begun))
