"""The HTTP client against servers that write what a test says, byte by byte."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import ssl
import subprocess
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import pytest
import uvloop

from vivace.bench.load.address import Address
from vivace.bench.load.client import HttpClient, WholeResponse
from vivace.bench.load.connection import ConnectionLost
from vivace.core.errors import ConfigError

DEADLINE_S = 60
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def talk(
    handler: Handler,
    exchange: Callable[[HttpClient], Awaitable[list[WholeResponse]]],
    tls: tuple[ssl.SSLContext, ssl.SSLContext] | None = None,
) -> list[WholeResponse]:
    async def whole() -> list[WholeResponse]:
        server = await asyncio.start_server(handler, "127.0.0.1", 0, ssl=tls and tls[0])
        port = server.sockets[0].getsockname()[1]
        address = Address("localhost" if tls else "127.0.0.1", port, tls is not None, "/base")
        client = HttpClient(address, time.perf_counter, api_key="k", tls=tls and tls[1])
        try:
            async with asyncio.timeout(DEADLINE_S):
                return await exchange(client)
        finally:
            client.close()
            server.close()

    return uvloop.run(whole())


def answering(*pieces: bytes, seen: list[bytes] | None = None, closes: bool = False) -> Handler:
    """The same answer to every request, flushed piece by piece."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                if seen is not None:
                    seen.append(head)
                for piece in pieces:
                    writer.write(piece)
                    await writer.drain()
                    await asyncio.sleep(0)
                if closes:
                    break
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        writer.close()

    return handle


async def two_fetches(client: HttpClient) -> list[WholeResponse]:
    return [await client.fetch("GET", "/x"), await client.fetch("GET", "/x")]


@pytest.mark.parametrize(
    "pieces",
    [
        (OK,),
        tuple(OK[i : i + 1] for i in range(len(OK))),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nh\r\n", b"1\r", b"\ni\r\n0\r\n", b"\r\n"),
        (b"HTTP/1.1 100 Continue\r\n\r\n", OK),
    ],
)
def test_bodies_in_pieces_on_one_connection(pieces: Sequence[bytes]) -> None:
    seen: list[bytes] = []
    answers = talk(answering(*pieces, seen=seen), two_fetches)
    assert [(answer.status, answer.body) for answer in answers] == [(200, b"hi")] * 2
    assert seen[0].startswith(b"GET /base/x HTTP/1.1\r\nHost: 127.0.0.1:")
    assert b"Authorization: Bearer k\r\n" in seen[0]


def test_a_body_that_ends_with_its_connection() -> None:
    answers = talk(answering(b"HTTP/1.1 200 OK\r\n\r\nhi", closes=True), two_fetches)
    assert [answer.body for answer in answers] == [b"hi", b"hi"]


def test_a_connection_that_was_closed_while_idle_is_opened_again() -> None:
    seen: list[bytes] = []
    answers = talk(answering(OK, seen=seen, closes=True), two_fetches)
    assert [answer.body for answer in answers] == [b"hi", b"hi"]
    assert len(seen) == 2


def test_a_connection_that_was_closed_before_it_was_used_is_told() -> None:
    async def closing(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    async def late(client: HttpClient) -> list[WholeResponse]:
        connection = await client.connected()
        while connection.is_open:
            await asyncio.sleep(0)
        await asyncio.sleep(0)  # its end is taken out of the inbox
        await client.exchange(connection, client.request("GET", "/"), WholeResponse())
        return []

    with pytest.raises(ConnectionLost) as lost:
        talk(closing, late)
    assert not lost.value.had_begun


@pytest.mark.parametrize(
    ("piece", "had_begun"),
    [(b"", False), (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhi", True), (b"SSH-2.0-OpenSSH\r\n", True)],
)
def test_answers_that_break_off(piece: bytes, had_begun: bool) -> None:
    with pytest.raises(ConnectionLost) as lost:
        talk(answering(piece, closes=True), two_fetches)
    assert lost.value.had_begun is had_begun


def test_leaving_closes_the_connection() -> None:
    begun, left = asyncio.Event(), asyncio.Event()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n")
        begun.set()
        with contextlib.suppress(ConnectionError):
            assert await reader.read() == b""
        left.set()
        writer.close()

    async def leave(client: HttpClient) -> list[WholeResponse]:
        task = asyncio.create_task(client.fetch("GET", "/"))
        await begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await left.wait()
        return []

    talk(handle, leave)


def test_tls(tmp_path: Path) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("no openssl to make a certificate with")
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    subject = ("-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost")
    make = ("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *subject)
    subprocess.run([*make, "-keyout", str(key), "-out", str(certificate)], check=True, capture_output=True)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(certificate, key)
    trusting = ssl.create_default_context(cafile=str(certificate))
    assert [answer.body for answer in talk(answering(OK), two_fetches, (server, trusting))] == [b"hi", b"hi"]
    with pytest.raises(ssl.SSLCertVerificationError):
        talk(answering(OK), two_fetches, (server, ssl.create_default_context()))


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("http://a:80/v1", Address("a", 80, False)),
        ("https://a/openai/v1/", Address("a", 443, True, "/openai")),
        ("localhost:8000", Address("localhost", 8000, False)),
        ("http://[::1]:9/", Address("::1", 9, False)),
    ],
)
def test_addresses(url: str, address: Address) -> None:
    assert Address.parse(url) == address
    assert Address.parse(str(address)) == address


@pytest.mark.parametrize(
    "url", ["ftp://a", "http://", "http://a:x", "http://a:99999", "http://u:p@a", "http://a/\r\nb"]
)
def test_what_is_no_address(url: str) -> None:
    with pytest.raises(ConfigError, match="no address"):
        Address.parse(url)
