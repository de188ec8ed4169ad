"""The listening socket and the connections that came through it."""

from __future__ import annotations

import asyncio
import errno
import logging
import resource
import socket
import ssl
from contextlib import suppress
from dataclasses import replace
from email.utils import formatdate

import uvicorn
from starlette.types import ASGIApp
from uvicorn.server import ServerState

from vivace.core.errors import ConfigError
from vivace.serve.config import ServeConfig
from vivace.serve.http_protocol import SPARE_CONNECTIONS, HttpProtocol
from vivace.serve.metrics.http_metrics import HttpMetrics

logger = logging.getLogger("vivace.serve")

BACKLOG = 2_048
SEND_BUFFER_BYTES = 256 * 1024  # of the kernel, a connection; it would grow to 4 MiB for a reader that does not read
CLOSING_INTERVAL_S = 0.005
SPARE_FILES = 128  # for everything but connections


class HttpServer:
    """Serves one ASGI app. `listen`, then `drain`, then `close`."""

    def __init__(self, app: ASGIApp, config: ServeConfig, metrics: HttpMetrics) -> None:
        self._config = config
        self._metrics = metrics
        self._state = ServerState()
        self._uvicorn = uvicorn.Config(
            app,
            http=HttpProtocol,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            proxy_headers=False,  # nothing that a client sends changes who it is
            timeout_keep_alive=config.keep_alive_timeout_s,  # type: ignore[arg-type]
        )
        self._server: asyncio.Server | None = None
        self._clock: asyncio.TimerHandle | None = None

    async def listen(self) -> int:
        """Open the port and return its number. Raises `ConfigError` where the address or the certificate is wrong."""
        config = self._config
        context = _tls_context(config)
        self._uvicorn.load()
        config = replace(config, max_connections=_affordable_connections(config.max_connections))
        self._set_date()
        listening = _bound_socket(config.host, config.port)
        self._server = await asyncio.get_running_loop().create_server(
            lambda: HttpProtocol(config, self._metrics, self._uvicorn, self._state),
            sock=listening,
            ssl=context,
            ssl_handshake_timeout=None if context is None else config.header_timeout_s,
            backlog=BACKLOG,
        )
        return int(listening.getsockname()[1])

    async def drain(self, timeout_s: float) -> bool:
        """Close idle connections and wait for running requests; False where some did not end in time."""
        for connection in list(self._state.connections):
            connection.shutdown()
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        while self._state.tasks:
            left = deadline - loop.time()
            if left <= 0:
                return False
            await asyncio.wait(self._state.tasks, timeout=left)
        return True

    async def close(self, grace_s: float = 2.0) -> None:
        """Stop listening and cut what still runs; what is written has `grace_s` to reach its reader.

        Work that ignores its client's departure is cancelled.
        """
        if self._server is not None:
            self._server.close()
        if self._clock is not None:
            self._clock.cancel()
        for connection in list(self._state.connections):
            assert isinstance(connection, HttpProtocol)
            connection.cut()
        loop = asyncio.get_running_loop()
        deadline = loop.time() + grace_s
        while (self._state.connections or self._state.tasks) and loop.time() < deadline:
            await asyncio.sleep(CLOSING_INTERVAL_S)
        for task in self._state.tasks:
            task.cancel()

    def _set_date(self) -> None:
        """The Date header, once a second."""
        self._state.default_headers = [(b"date", formatdate(usegmt=True).encode())]
        self._clock = asyncio.get_running_loop().call_later(1.0, self._set_date)


def _tls_context(config: ServeConfig) -> ssl.SSLContext | None:
    if config.ssl_certfile is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    try:
        context.load_cert_chain(config.ssl_certfile, config.ssl_keyfile, password="")
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"cannot use {config.ssl_certfile} and {config.ssl_keyfile} for TLS: {error}") from None
    return context


def _bound_socket(host: str, port: int) -> socket.socket:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        # A name such as localhost may have an address of each family: clients try both, or IPv4 alone.
        family, kind, protocol, _, address = min(found, key=lambda entry: entry[0] != socket.AF_INET)
        listening = socket.socket(family, kind, protocol)
    except OSError as error:
        raise ConfigError(f"cannot listen on {host}: {error.strerror or error}") from None
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # Connections inherit these two.
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        listening.bind(address)
    except OSError as error:
        listening.close()
        other = "; name another --port (0: any free one)" if error.errno == errno.EADDRINUSE else ""
        raise ConfigError(f"cannot listen on {host}:{port}: {error.strerror or error}{other}") from None
    listening.setblocking(False)
    return listening


def _affordable_connections(wanted: int) -> int:
    """Raise the process's limit of open files as far as it may; how many of `wanted` connections that allows.

    A server that runs out of files can neither accept nor refuse, nor restart its engine.
    """
    num_files = wanted + SPARE_CONNECTIONS + SPARE_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed = num_files if hard == resource.RLIM_INFINITY else min(num_files, hard)
    if soft != resource.RLIM_INFINITY and soft < allowed:
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
            soft = allowed
    if soft == resource.RLIM_INFINITY or soft >= num_files:
        return wanted
    affordable = max(1, soft - SPARE_CONNECTIONS - SPARE_FILES)
    logger.warning("%d connections at once instead of %d: the limit of open files is %d", affordable, wanted, soft)
    return affordable


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a server on `host`."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError:
        return False
    return all(str(address[4][0]).startswith(("127.", "::1")) for address in found)
