"""Connections that are slow, many, deaf or gone (HTTP rows of the list of hostile input), ids and log lines."""

from __future__ import annotations

import json
import random
import socket
import struct
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from http.client import RemoteDisconnected

import pytest
from canaries import gauge, num_used_blocks, singing
from hostile_requests import (
    COMPLETION,
    HEADER_TIMEOUT_S,
    JSON_TYPE,
    MAX_CONNECTIONS,
    chunks,
    complete,
    is_healthy,
    prompt_connection,
)
from raw_http import Answer, RawConnection, exchange, request_bytes
from served_process import API_KEY, ServedProcess, eventually, resident_bytes, standing_still

MIB = 1024 * 1024


@pytest.fixture(scope="module")
def undisturbed(strict: ServedProcess) -> tuple[int, str]:
    """The engine's process, and what it answers."""
    return strict.engine_pid, _text(complete(strict.port))


@pytest.fixture(autouse=True)
def unharmed(strict: ServedProcess, undisturbed: tuple[int, str]) -> Iterator[None]:
    """After each test the same processes serve the same text, and no KV block is in use."""
    yield
    assert eventually(lambda: _is_idle(strict))
    assert (strict.engine_pid, _text(complete(strict.port))) == undisturbed


def _text(answer: Answer) -> str:
    assert answer.status == 200, answer
    return str(json.loads(answer.body)["choices"][0]["text"])


def _is_idle(server: ServedProcess) -> bool:
    names = ("num_requests_running", "num_requests_waiting")
    return not any(gauge(server, name) for name in names) and num_used_blocks(server) == 0


# --- time -----------------------------------------------------------------------------------------


def test_slow_head_is_408(hasty: ServedProcess) -> None:
    with prompt_connection(hasty.port, b"GET /v1/models HTTP/1.1\r\nHos") as connection:
        answer = connection.answer()
        assert (answer.status, answer.error["type"]) == (408, "timeout_error")
        assert connection.is_closed()


def test_slow_body_is_408(hasty: ServedProcess) -> None:
    head = request_bytes("POST", "/v1/completions", {**JSON_TYPE, "Content-Length": "100"}, key=API_KEY)
    with prompt_connection(hasty.port, head + b"{") as connection:
        answer = connection.answer()
        assert (answer.status, answer.error["type"]) == (408, "timeout_error")
        assert connection.is_closed()


def test_an_early_answer_waits_for_no_body(strict: ServedProcess) -> None:
    """Nobody without a key can hold a connection by sending slowly, nor ask the server to read."""
    with RawConnection(strict.port) as connection:
        headers = {**JSON_TYPE, "Content-Length": "1000000", "Expect": "100-continue"}
        assert connection.send(request_bytes("POST", "/v1/completions", headers)).answer().status == 401
        assert connection.send(b"{").is_closed()


def test_no_request_gets_two_answers(strict: ServedProcess) -> None:
    """A proxy would take the second for the answer to its next request."""
    with RawConnection(strict.port) as connection:
        head = request_bytes("POST", "/v1/completions", {**JSON_TYPE, "Transfer-Encoding": "chunked"})
        assert connection.send(head).answer().status == 401
        assert connection.send(b"not a size\r\n").rest() == b""
    with RawConnection(strict.port) as connection:
        head = request_bytes("POST", "/v1/completions", {**JSON_TYPE, "Content-Length": "9"})
        assert connection.send(head).answer().status == 401
        assert connection.rest() == b""  # the deadline of a body that does not come


def test_a_client_may_wait_to_be_asked_for_its_body(strict: ServedProcess) -> None:
    with RawConnection(strict.port) as connection:
        headers = {**JSON_TYPE, "Content-Length": str(len(COMPLETION)), "Expect": "100-continue"}
        connection.send(request_bytes("POST", "/v1/completions", headers, key=API_KEY))
        interim = b"HTTP/1.1 100 Continue\r\n\r\n"
        assert connection.socket.recv(len(interim), socket.MSG_WAITALL) == interim
        assert connection.send(COMPLETION).answer().status == 200


def test_http_1_0_is_answered_and_closed(strict: ServedProcess) -> None:
    with RawConnection(strict.port) as connection:
        assert connection.send(b"GET /health HTTP/1.0\r\n\r\n").answer().status == 200
        assert connection.is_closed()


def test_idle_connections_are_closed(hasty: ServedProcess) -> None:
    with RawConnection(hasty.port) as silent, prompt_connection(hasty.port, request_bytes(target="/health")) as used:
        assert used.answer().status == 200
        assert silent.is_closed()
        assert used.is_closed()


def test_a_thousand_half_open_sockets_hurt_nobody(server: ServedProcess) -> None:
    """Within the default bound on connections."""
    with singing(server), ExitStack() as opened:
        for _ in range(1_000):
            one = opened.enter_context(socket.create_connection(("127.0.0.1", server.port)))
            one.sendall(b"POST /v1/completions HTTP/1.1\r\nHost:")
        for _ in range(10):
            assert complete(server.port).status == 200


def test_a_flood_of_connections_hurts_nobody(server: ServedProcess) -> None:
    """They come and go, some with a reset, some with half a request."""

    def come_and_go(number: int) -> None:
        with suppress(ConnectionError), RawConnection(server.port) as connection:
            if number % 3 == 0:
                connection.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            if number % 2 == 0:
                connection.send(b"POST /v1/completions HTTP/1.1\r\n")

    with singing(server), ThreadPoolExecutor(4) as pool:
        list(pool.map(come_and_go, range(2_000)))
    assert eventually(lambda: is_healthy(server.port))


@pytest.mark.parametrize("is_used", [False, True])
def test_a_server_that_stood_still_blames_nobody(hasty: ServedProcess, is_used: bool) -> None:
    """Its time-outs are over before it reads what came in time, on a fresh connection and on one kept alive."""
    health = request_bytes(target="/health")
    is_in_time = False
    while not is_in_time:
        began = time.monotonic()
        with RawConnection(hasty.port) as connection:
            if is_used:
                connection.send(health).answer()
            is_healthy(hasty.port)  # who came before has been accepted
            with standing_still(hasty.pid):
                is_in_time = time.monotonic() - began < HEADER_TIMEOUT_S / 2  # else we stood still
                connection.send(health)
                assert eventually(lambda since=began: time.monotonic() - since > 2 * HEADER_TIMEOUT_S)
            if is_in_time:
                assert connection.answer().status == 200


def test_half_open_sockets_do_not_hurt(hasty: ServedProcess) -> None:
    """Ten times more than may be open; the others are told, and room is there again after the time-out."""
    sockets = [socket.socket() for _ in range(10 * MAX_CONNECTIONS)]
    try:
        for one in sockets:
            one.setblocking(False)
            one.connect_ex(("127.0.0.1", hasty.port))
        assert eventually(lambda: is_healthy(hasty.port))
    finally:
        for one in sockets:
            one.close()
    assert eventually(lambda: is_healthy(hasty.port))


def test_too_many_connections_are_503(strict: ServedProcess) -> None:
    def is_refused() -> bool:
        """Whether any of a few too many is; on a slow machine the first may have gone before the last came."""
        connections = [RawConnection(strict.port) for _ in range(MAX_CONNECTIONS + 4)]
        try:
            with suppress(RemoteDisconnected, ConnectionResetError):
                answer = connections[-1].answer()
                assert (answer.status, answer.headers["retry-after"]) == (503, "1")
                assert answer.error["type"] == "unavailable_error"
                return True
            return False
        finally:
            for one in connections:
                one.socket.close()

    assert eventually(is_refused)
    assert eventually(lambda: is_healthy(strict.port))


# --- readers and departures -----------------------------------------------------------------------

LONG = json.dumps({"prompt": "Once", "max_tokens": 1000, "ignore_eos": True, "stream": True}).encode()


def _begun_stream(port: int, body: bytes = LONG) -> RawConnection:
    connection = RawConnection(port)
    connection.send(request_bytes("POST", "/v1/completions", JSON_TYPE, body, key=API_KEY))
    assert connection.socket.recv(1, socket.MSG_PEEK)
    return connection


def test_departures_free_everything(strict: ServedProcess) -> None:
    """Before the head, in it, in the body, at a random token, by half-closing, by a reset."""
    generator = random.Random(7)
    whole = request_bytes("POST", "/v1/completions", JSON_TYPE, LONG, key=API_KEY)
    for cut in (0, 3, 40, len(whole) - 10):
        RawConnection(strict.port).send(whole[:cut]).socket.close()
    for way in ("close", "half-close", "reset") * 3:
        connection = _begun_stream(strict.port)
        connection.socket.recv(generator.randint(1, 20_000))
        if way == "half-close":
            connection.socket.shutdown(socket.SHUT_WR)
            assert connection.is_closed()
        elif way == "reset":
            connection.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.socket.close()
    assert eventually(lambda: _is_idle(strict))


def test_departure_ends_an_answer_that_is_not_streamed(strict: ServedProcess) -> None:
    body = json.dumps({"prompt": "Once", "max_tokens": 1000, "ignore_eos": True, "n": 4}).encode()
    sent = request_bytes("POST", "/v1/completions", {**JSON_TYPE, "X-Request-Id": "leaver"}, body, key=API_KEY)

    def left_it_running() -> bool:
        """Whether a client that leaves when it sees its request run did so before the answer was there."""
        num_before = len(_statuses(strict, "leaver"))
        with RawConnection(strict.port) as connection:
            connection.send(sent)
            assert eventually(lambda: gauge(strict, "num_requests_running") > 0 or connection.has_answer())
        assert strict.wait_for(lambda: len(_statuses(strict, "leaver")) > num_before)
        return _statuses(strict, "leaver")[-1] == 499

    assert eventually(left_it_running)
    assert eventually(lambda: _is_idle(strict))


@pytest.mark.parametrize("num_read", [0, 1])
def test_deaf_readers_are_cut_off(strict: ServedProcess, num_read: int) -> None:
    """Sixteen long answers at once are more than socket buffers hold. The server lets go, its memory stays."""

    def is_cut_off() -> bool:
        """Looks fifty times a second, and each time one byte is read, or none."""
        for one in connections:
            with suppress(ConnectionResetError):
                one.recv(num_read)
        return len(_statuses(strict, name)) == len(connections)

    before, name = resident_bytes(strict.pid), f"deaf-{num_read}"
    with ExitStack() as opened:
        connections = [opened.enter_context(_deaf(strict.port, name, num=16)) for _ in range(2)]
        assert eventually(is_cut_off, 120.0)
        assert _statuses(strict, name) == [499, 499]
        assert eventually(lambda: _is_idle(strict))
        assert resident_bytes(strict.pid) - before < 32 * MIB


def test_deaf_readers_do_not_disturb_those_who_listen(strict: ServedProcess) -> None:
    """Four that never read, each with more than its buffers hold, beside eight that do."""
    with singing(strict), ExitStack() as opened:
        for _ in range(4):
            opened.enter_context(_deaf(strict.port, "deaf-beside", num=2))
        assert strict.wait_for(lambda: len(_statuses(strict, "deaf-beside")) == 4)
    assert _statuses(strict, "deaf-beside") == [499] * 4


def _deaf(port: int, name: str, num: int) -> socket.socket:
    """A client with small buffers and megabytes to come, of log probabilities: texts shrink where they are joined."""
    fields = {"prompt": "Once", "max_tokens": 1000, "ignore_eos": True, "stream": True, "n": num, "logprobs": 20}
    one = socket.socket()
    one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
    one.connect(("127.0.0.1", port))
    headers = {**JSON_TYPE, "X-Request-Id": name}
    one.sendall(request_bytes("POST", "/v1/completions", headers, json.dumps(fields).encode(), key=API_KEY))
    return one


def _statuses(server: ServedProcess, name: str) -> list[int]:
    """Of the requests that their client gave this id, as far as the log tells by now."""
    return [line["status"] for line in list(server.logs) if line.get("client_request_id") == name]


def test_pipelined_requests_get_one_answer_and_the_end(strict: ServedProcess) -> None:
    one = request_bytes("POST", "/v1/completions", JSON_TYPE, COMPLETION, key=API_KEY)
    with RawConnection(strict.port) as connection:
        answer = connection.send(one * 3).answer()
        assert (answer.status, answer.headers["connection"]) == (200, "close")
        assert connection.is_closed()


@pytest.mark.parametrize("protocol", ["websocket", "h2c"])
def test_upgrades_are_declined(strict: ServedProcess, protocol: str) -> None:
    """Java's client offers h2c with each request; its body follows as if nothing had been offered."""
    offer = {"Connection": "Upgrade, HTTP2-Settings", "Upgrade": protocol, "HTTP2-Settings": "AAMAAABkAAQAAP__"}
    head = {**offer, **JSON_TYPE, "Transfer-Encoding": "chunked"}
    chunked = request_bytes("POST", "/v1/completions", head, key=API_KEY) + chunks([COMPLETION[:9], COMPLETION[9:]])
    with RawConnection(strict.port) as connection:
        for data in (
            request_bytes("POST", "/v1/completions", {**offer, **JSON_TYPE}, COMPLETION, key=API_KEY),
            request_bytes(headers=offer, key=API_KEY),
            chunked,
            request_bytes(key=API_KEY),
        ):
            assert connection.send(data).answer().status == 200


# --- ids and logs ---------------------------------------------------------------------------------


def test_request_ids_are_ours(strict: ServedProcess) -> None:
    headers = {**JSON_TYPE, "X-Request-Id": "mine"}
    data = request_bytes("POST", "/v1/completions", headers, COMPLETION, key=API_KEY)
    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(lambda _: exchange(strict.port, data), range(100)))
    assert {answer.status for answer in answers} == {200}
    assert len({answer.headers["x-request-id"] for answer in answers}) == 100
    assert {answer.headers["x-client-request-id"] for answer in answers} == {"mine"}


@pytest.mark.parametrize("value", ["a b", "x" * 129, "<script>", "é", "a\x1b[31m", "%0d%0aSet-Cookie:x"])
def test_harmful_ids_are_not_echoed(strict: ServedProcess, value: str) -> None:
    answer = exchange(strict.port, request_bytes(headers={"X-Request-Id": value}))
    assert answer.status in (400, 401)
    assert "x-client-request-id" not in answer.headers


def test_no_line_of_the_log_is_forged(strict: ServedProcess) -> None:
    target = "/nothing%0d%0a%7b%22message%22:%22forged%22%7d%1b%5b31m%7f%c2%9b"
    answer = exchange(strict.port, request_bytes(target=target, key=API_KEY))
    assert answer.status == 404
    request_id = answer.headers["x-request-id"]
    assert strict.wait_for(lambda: any(request_id == line.get("request_id") for line in strict.logs))
    line = next(line for line in strict.logs if line.get("request_id") == request_id)
    assert (line["status"], line["key"], line["method"]) == (404, "key-1", "GET")
    assert line["path"].startswith("/nothing\r\n")  # as JSON, in one line
    assert not [line for line in strict.lines if not line.isprintable()]
    assert not [line for line in strict.logs if line["message"] == "forged"]
