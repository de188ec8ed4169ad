"""Keep-alive connections to one server, plain or TLS."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable

import msgspec

from vivace.bench.load.address import Address
from vivace.bench.load.connection import Connection, ConnectionLost, Inbox, Sink
from vivace.core.errors import ConfigError

CONNECT_S = 10.0


class WholeResponse:
    """A response that is looked at when it is over."""

    def __init__(self) -> None:
        self.status = 0
        self.headers: dict[str, str] = {}
        self.body = b""

    def begin(self, status: int, headers: dict[str, str]) -> None:
        self.status, self.headers = status, headers

    def receive(self, when: float, data: bytes) -> None:  # noqa: ARG002
        self.body += data

    def end(self, when: float) -> None: ...

    def json(self) -> object:
        """None where the body is no JSON."""
        try:
            return msgspec.json.decode(self.body)
        except msgspec.DecodeError:
            return None


class HttpClient:
    """Opens as many connections as exchanges run at once, and uses them again. To be made on a running loop."""

    def __init__(
        self,
        address: Address,
        clock: Callable[[], float],
        *,
        api_key: str | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._address = address
        if api_key is not None and not (api_key.isascii() and api_key.isprintable()):
            raise ConfigError("the key has characters that no HTTP header can carry")
        self._key_line = "" if api_key is None else f"Authorization: Bearer {api_key}\r\n"
        self._tls = (tls or ssl.create_default_context()) if address.is_tls else None
        self._inbox = Inbox(clock)
        self._idle: list[Connection] = []

    def request(self, method: str, path: str, body: object = None) -> bytes:
        """The bytes of a request, to be sent when it is due."""
        content = b"" if body is None else msgspec.json.encode(body)
        kind = "" if body is None else f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n"
        head = (
            f"{method} {self._address.path}{path} HTTP/1.1\r\nHost: {self._address.authority}\r\n"
            f"User-Agent: vivace-bench\r\nAccept: */*\r\n{self._key_line}{kind}\r\n"
        )
        return head.encode("latin-1") + content

    async def connected(self) -> Connection:
        """An idle connection or a new one. Raises `OSError` where nobody listens."""
        while self._idle:
            connection = self._idle.pop()
            if connection.is_open:
                return connection
        loop = asyncio.get_running_loop()
        opened = loop.create_connection(
            lambda: Connection(self._inbox),
            self._address.host,
            self._address.port,
            ssl=self._tls,
            server_hostname=self._address.host if self._tls else None,
        )
        try:
            async with asyncio.timeout(CONNECT_S):
                return (await opened)[1]
        except TimeoutError:
            raise ConnectionError(f"no connection within {CONNECT_S:.0f} s") from None

    async def exchange(self, connection: Connection, request: bytes, sink: Sink) -> None:
        """Send and wait for the whole response; leaves the connection where the caller leaves. Raises `OSError`.

        A server may close an idle connection just as it is used again: then the request goes out on a new one.
        """
        while True:
            was_used = connection.was_used
            try:
                await connection.send(request, sink)
                break
            except ConnectionLost as error:
                if error.had_begun or not was_used:
                    raise
                connection = await self.connected()
            except asyncio.CancelledError:
                connection.close()
                raise
        self.give_back(connection)

    def give_back(self, connection: Connection) -> None:
        if connection.is_open:
            self._idle.append(connection)
        else:
            connection.close()

    async def fetch(self, method: str, path: str, body: object = None) -> WholeResponse:
        """One exchange from start to end. Raises `OSError`."""
        response = WholeResponse()
        await self.exchange(await self.connected(), self.request(method, path, body), response)
        return response

    def close(self) -> None:
        for connection in self._idle:
            connection.close()
        self._idle.clear()
