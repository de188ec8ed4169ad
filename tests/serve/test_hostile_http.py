"""What arrives at an open port (the HTTP rows of the list of hostile input), against a real server."""

from __future__ import annotations

import json
import random
import socket
import struct
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from http.client import RemoteDisconnected

import pytest
from raw_http import Answer, RawConnection, exchange, request_bytes
from served_process import API_KEY, SMALL, ServedProcess, eventually, resident_bytes, served

MAX_CONNECTIONS = 64
MIB = 1024 * 1024
JSON_TYPE = {"Content-Type": "application/json"}
COMPLETION = json.dumps({"prompt": "Once", "max_tokens": 3, "temperature": 0}).encode()


@pytest.fixture(scope="module")
def strict() -> Iterator[ServedProcess]:
    """A server with short time-outs and few connections."""
    limits = {
        "header-timeout-s": 1.0,
        "body-timeout-s": 2.0,
        "keep-alive-timeout-s": 1.0,
        "send-timeout-s": 1.0,
        "max-connections": MAX_CONNECTIONS,
    }
    flags = [word for name, value in limits.items() for word in (f"--{name}", str(value))]
    with served(*SMALL, *flags) as process:
        yield process.wait_ready()


@pytest.fixture(scope="module")
def undisturbed(strict: ServedProcess) -> tuple[int, str]:
    """The engine's process, and what it answers."""
    return strict.engine_pid, _text(_complete(strict.port))


@pytest.fixture(autouse=True)
def unharmed(strict: ServedProcess, undisturbed: tuple[int, str]) -> Iterator[None]:
    """After each test the same processes serve the same text, and no KV block is in use."""
    yield
    assert eventually(lambda: _num_busy(strict.port) == 0)
    assert (strict.engine_pid, _text(_complete(strict.port))) == undisturbed


def _complete(port: int, body: bytes = COMPLETION, **headers: str) -> Answer:
    lines = {**JSON_TYPE, **{name.replace("_", "-"): value for name, value in headers.items()}}
    return exchange(port, request_bytes("POST", "/v1/completions", lines, body, key=API_KEY))


def _is_healthy(port: int) -> bool:
    with suppress(RemoteDisconnected, ConnectionResetError):
        return exchange(port, request_bytes(target="/health")).status == 200
    return False


def _text(answer: Answer) -> str:
    assert answer.status == 200, answer
    return str(json.loads(answer.body)["choices"][0]["text"])


def _num_busy(port: int) -> float:
    """Running and waiting sequences, and the share of blocks in use."""
    page = exchange(port, request_bytes(target="/metrics", key=API_KEY)).body.decode()
    names = ("vivace:num_requests_running{", "vivace:num_requests_waiting{", "vivace:kv_cache_usage_perc{")
    return sum(float(line.rpartition(" ")[2]) for line in page.splitlines() if line.startswith(names))


def _chunked(chunks: list[bytes]) -> bytes:
    return b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n\r\n"


# --- heads ----------------------------------------------------------------------------------------


def test_endless_header_is_431_and_memory_stays_flat(strict: ServedProcess) -> None:
    before = resident_bytes(strict.pid)
    with RawConnection(strict.port) as connection:
        connection.send(b"GET /v1/models HTTP/1.1\r\nHost: x\r\nX-Long: ")
        for _ in range(256):  # 256 MiB of a gigabyte: the server has closed long before
            connection.send(b"a" * MIB)
        assert connection.answer().status == 431
    assert resident_bytes(strict.pid) - before < 16 * MIB


@pytest.mark.parametrize("num_headers", [101, 10_000])
def test_many_headers_are_431(strict: ServedProcess, num_headers: int) -> None:
    headers = {f"X-{number}": "1" for number in range(num_headers)}
    answer = exchange(strict.port, request_bytes(headers=headers))
    assert answer.status == 431
    assert answer.headers["connection"] == "close"
    assert answer.error["type"] == "invalid_request_error"


def test_long_target_is_431(strict: ServedProcess) -> None:
    assert exchange(strict.port, request_bytes(target="/" + "a" * 70_000)).status == 431


def test_blank_lines_without_end_are_refused(strict: ServedProcess) -> None:
    with RawConnection(strict.port) as connection:
        assert connection.send(b"\r\n" * 100_000).answer().status == 431


def test_trailers_are_not_headers(strict: ServedProcess) -> None:
    head = request_bytes("POST", "/v1/completions", {**JSON_TYPE, "Transfer-Encoding": "chunked"})
    body = b"%x\r\n%s\r\n0\r\nAuthorization: Bearer %s\r\n\r\n" % (len(COMPLETION), COMPLETION, API_KEY.encode())
    assert exchange(strict.port, head + body).status == 401


@pytest.mark.parametrize(
    "headers",
    [
        {"Content-Length": "5, 5"},
        {"Content-Length": "-1"},
        {"Content-Length": "+5"},
        {"Content-Length": "0x5"},
        {"Content-Length": str(2**63)},
        {"Content-Length": str(2**64 + 5)},
        {"Content-Length": "5\r\nContent-Length: 5"},
        {"Content-Length": "5\r\nContent-Length: 6"},
        {"Content-Length": "5", "Transfer-Encoding": "chunked"},
        {"Transfer-Encoding": "chunked\r\nTransfer-Encoding: chunked"},
        {"Transfer-Encoding": "gzip, chunked"},
        {"Transfer-Encoding": "chunked, identity"},
        {"Transfer-Encoding": "xchunked"},
    ],
)
def test_ambiguous_lengths_are_refused(strict: ServedProcess, headers: dict[str, str]) -> None:
    data = request_bytes("POST", "/v1/completions", {**JSON_TYPE, **headers}, key=API_KEY) + b"{}   "
    answer = exchange(strict.port, data)
    assert answer.status in (400, 413)
    assert answer.error["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    "head",
    [
        b"GET /v1/models HTTP/1.1\r\n\r\n",
        b"GET /v1/models HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"GET /v1/models HTTP/1.1\r\nHost: x/health?\r\n\r\n",
        b"GET /v1/models HTTP/1.1\r\nHost: x y\r\n\r\n",
        b"GET /v1/models HTTP/1.1\r\nHost : x\r\n\r\n",
        b"GET /v1/models HTTP/1.1\r\n Host: x\r\n\r\n",
        b"GET /v1/models HTTP/1.1\nHost: x\nX: a\rb\n\n",
        b"GET  HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET health HTTP/1.1\r\nHost: x\r\n\r\n",
        b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n",
        b"CONNECT x:80 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /\xff HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /a\x00b HTTP/1.1\r\nHost: x\r\n\r\n",
        b"BREW /v1/models HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /v1/models HTTP/3.7\r\nHost: x\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200),
        b"\x80\x04\x95\x10\x00\x00\x00\x00\x00\x00\x00\x8c\x05posix\r\n\r\n",
    ],
)
def test_what_is_not_http_is_400(strict: ServedProcess, head: bytes) -> None:
    with RawConnection(strict.port) as connection:
        answer = connection.send(head).answer()
        assert answer.status == 400
        assert answer.error["code"] == "invalid_http"
        assert connection.is_closed()


def test_random_bytes_never_hurt(strict: ServedProcess) -> None:
    generator = random.Random(20261122)
    valid = request_bytes("POST", "/v1/completions", JSON_TYPE, COMPLETION, key=API_KEY)
    for _ in range(150):
        mutated = bytearray(valid)
        for _ in range(generator.randint(1, 8)):
            mutated[generator.randrange(len(mutated))] = generator.randrange(256)
        with RawConnection(strict.port) as connection:
            connection.send(bytes(mutated))
            connection.socket.shutdown(socket.SHUT_WR)
            assert connection.is_closed()


# --- who may ask ----------------------------------------------------------------------------------

PATHS = ("/v1/models", "/v1/models/x", "/v1/completions", "/v1/chat/completions", "/v1/responses", "/tokenize")
PATHS += ("/detokenize", "/metrics", "/openapi.json", "/docs", "/", "/healthz", "/health/", "/ready/x")


@pytest.mark.parametrize("path", PATHS)
def test_no_disguise_opens_a_route(strict: ServedProcess, path: str) -> None:
    disguises = [
        (path, {}),
        (f"/{path}", {}),
        (f"/health/..{path}", {}),
        (f"/v1/..{path}", {}),
        (f"/health%2f..{path}", {}),
        (path.replace("/v1/", "/v1%2F"), {}),
        (f"{path}?x=/health", {}),
        (f"{path}#/health", {}),
        (f"{path};/health", {}),
        (f"http://localhost{path}", {}),
        (path, {"X-Forwarded-Prefix": "/health"}),
        (path, {"X-Original-URL": "/health", "X-Rewrite-URL": "/health"}),
        (path, {"X-Forwarded-For": "127.0.0.1", "X-Real-IP": "127.0.0.1"}),
        (path, {"X-HTTP-Method-Override": "GET"}),
        (path, {"Authorization": "Bearer"}),
        (path, {"Authorization": "Bearer "}),
        (path, {"Authorization": f"Bearer {API_KEY}x"}),
        (path, {"Authorization": f"Bearer {API_KEY[:-1]}"}),
        (path, {"Authorization": f"Basic {API_KEY}"}),
        (path, {"Authorization": API_KEY}),
        (path, {"Authorization": f"Bearer x\r\nAuthorization: Bearer {API_KEY}"}),
        (path, {"Authorization": f"Bearer {API_KEY}, Bearer x"}),
        (path, {"Cookie": f"Authorization=Bearer {API_KEY}", "Api-Key": API_KEY}),
    ]
    for method in ("GET", "POST"):
        for target, headers in disguises:
            answer = exchange(strict.port, request_bytes(method, target, headers))
            assert answer.status in (400, 401), (method, target, headers, answer)
            assert answer.error["type"] in ("authentication_error", "invalid_request_error")


@pytest.mark.parametrize("host", ["x/health?", "x/health#", "[::1]/health", "a\tb"])
def test_a_host_changes_no_path(strict: ServedProcess, host: str) -> None:
    assert exchange(strict.port, request_bytes(headers={"Host": host})).status == 400


def test_health_and_ready_need_no_key(strict: ServedProcess) -> None:
    for path in ("/health", "/ready"):
        assert exchange(strict.port, request_bytes(target=path)).status == 200
        assert exchange(strict.port, request_bytes(target=path, key="wrong")).status == 200


def test_unknown_path_and_method(strict: ServedProcess) -> None:
    missing = exchange(strict.port, request_bytes(target="/v2/nothing", key=API_KEY))
    assert (missing.status, missing.error["type"]) == (404, "not_found_error")
    for method in ("GET", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"):
        refused = exchange(strict.port, request_bytes(method, "/v1/completions", key=API_KEY))
        assert (refused.status, refused.headers["allow"]) == (405, "POST")
        assert refused.error["code"] == "method_not_allowed"
    assert "GET" in exchange(strict.port, request_bytes("DELETE", "/health")).headers["allow"]


# --- bodies ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        ({"Content-Type": "text/plain"}, COMPLETION),
        ({"Content-Type": "application/x-www-form-urlencoded"}, b"prompt=Once"),
        ({"Content-Type": "multipart/form-data; boundary=x"}, b"--x--"),
        ({"Content-Type": "application/json; charset=utf-16"}, COMPLETION.decode().encode("utf-16")),
        ({}, COMPLETION),
        ({**JSON_TYPE, "Content-Encoding": "gzip"}, b"\x1f\x8b\x08" + bytes(1000)),
        ({**JSON_TYPE, "Content-Encoding": "br"}, COMPLETION),
    ],
)
def test_other_content_is_415(strict: ServedProcess, headers: dict[str, str], body: bytes) -> None:
    data = request_bytes("POST", "/v1/completions", headers, body, key=API_KEY)
    assert exchange(strict.port, data).status == 415


def test_long_body_is_413(strict: ServedProcess) -> None:
    body = b'{"prompt": "' + b"a" * (5 * MIB) + b'"}'
    assert _complete(strict.port, body).error["code"] == "body_too_large"
    chunks = [body[start : start + 65_536] for start in range(0, len(body), 65_536)]
    head = request_bytes("POST", "/v1/completions", {**JSON_TYPE, "Transfer-Encoding": "chunked"}, key=API_KEY)
    answer = exchange(strict.port, head + _chunked(chunks))
    assert (answer.status, answer.error["code"]) == (413, "body_too_large")


def test_chunks_of_one_byte_are_refused(strict: ServedProcess) -> None:
    head = request_bytes("POST", "/v1/completions", {**JSON_TYPE, "Transfer-Encoding": "chunked"}, key=API_KEY)
    chunks = [b" "] * 3_000_000
    assert exchange(strict.port, head + _chunked(chunks)).status in (400, 413)


def test_ordinary_chunks_are_a_body(strict: ServedProcess) -> None:
    head = request_bytes("POST", "/v1/completions", {**JSON_TYPE, "Transfer-Encoding": "chunked"}, key=API_KEY)
    chunks = [COMPLETION[start : start + 7] for start in range(0, len(COMPLETION), 7)]
    assert exchange(strict.port, head + _chunked(chunks)).status == 200


@pytest.mark.parametrize("size", [b"g", b"-1", b"ffffffffffffffffff", b"1 1", b"0x5", b"\xff"])
def test_bad_chunk_sizes_are_400(strict: ServedProcess, size: bytes) -> None:
    head = request_bytes("POST", "/v1/completions", {**JSON_TYPE, "Transfer-Encoding": "chunked"}, key=API_KEY)
    assert exchange(strict.port, head + size + b"\r\n{}\r\n0\r\n\r\n").status == 400


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"null",
        b'"x"',
        b"{",
        b'{"prompt": "a",}',
        b'{"prompt": "a"} {}',
        b'{"temperature": NaN, "prompt": "a"}',
        b'{"temperature": -Infinity, "prompt": "a"}',
        b'{"temperature": 1e400, "prompt": "a"}',
        b'{"prompt": "a", "prompt": "b"}',
        b'{"prompt": "\\ud800"}',
        b'{"prompt": "a\\u0000"}',
        b'{"prompt": "\xff"}',
        b'{"prompt": "\xed\xa0\x80"}',
        b'\xef\xbb\xbf{"prompt": "a"}',
        b'{"prompt": "a\x00"}',
        b'{"prompt": ' + b"[" * 65 + b"]" * 65 + b"}",
        b"[" * 1_000_000,
        b'{"a":' * 500_000,
        b'{"prompt": "a", "max_tokens": ' + b"9" * 100_000 + b"}",
    ],
)
def test_bad_json_is_400(strict: ServedProcess, body: bytes) -> None:
    answer = _complete(strict.port, body, Content_Length=str(len(body)))
    assert answer.status == 400
    assert answer.error["type"] == "invalid_request_error"


# --- time -----------------------------------------------------------------------------------------


def test_slow_head_is_408(strict: ServedProcess) -> None:
    with RawConnection(strict.port) as connection:
        answer = connection.send(b"GET /v1/models HTTP/1.1\r\nHos").answer()
        assert (answer.status, answer.error["type"]) == (408, "timeout_error")
        assert connection.is_closed()


def test_slow_body_is_408(strict: ServedProcess) -> None:
    with RawConnection(strict.port) as connection:
        headers = {**JSON_TYPE, "Content-Length": "100"}
        answer = connection.send(request_bytes("POST", "/v1/completions", headers, key=API_KEY) + b"{").answer()
        assert (answer.status, answer.error["type"]) == (408, "timeout_error")
        assert connection.is_closed()


def test_idle_connections_are_closed(strict: ServedProcess) -> None:
    with RawConnection(strict.port) as silent, RawConnection(strict.port) as used:
        assert used.send(request_bytes(target="/health")).answer().status == 200
        assert silent.is_closed()
        assert used.is_closed()


def test_half_open_sockets_do_not_hurt(strict: ServedProcess) -> None:
    """Ten times more than may be open; the others are told, and room is there again after the time-out."""
    sockets = [socket.socket() for _ in range(10 * MAX_CONNECTIONS)]
    try:
        for one in sockets:
            one.setblocking(False)
            one.connect_ex(("127.0.0.1", strict.port))
        assert eventually(lambda: _is_healthy(strict.port))
    finally:
        for one in sockets:
            one.close()


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
    assert eventually(lambda: _is_healthy(strict.port))


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
    assert eventually(lambda: _num_busy(strict.port) == 0)


def test_departure_ends_an_answer_that_is_not_streamed(strict: ServedProcess) -> None:
    body = json.dumps({"prompt": "Once", "max_tokens": 1000, "ignore_eos": True, "n": 4}).encode()
    with RawConnection(strict.port) as connection:
        connection.send(request_bytes("POST", "/v1/completions", JSON_TYPE, body, key=API_KEY))
        assert eventually(lambda: _num_busy(strict.port) > 0)
    assert eventually(lambda: _num_busy(strict.port) == 0)


def test_reader_that_never_reads_is_cut_off(strict: ServedProcess) -> None:
    """Sixteen long answers at once are more than socket buffers hold. The server lets go, its memory stays."""

    def num_cut_off() -> int:
        return sum(line.get("status") == 499 for line in strict.logs)

    before, num_before = resident_bytes(strict.pid), num_cut_off()
    body = json.dumps({"prompt": "Once", "max_tokens": 1000, "ignore_eos": True, "stream": True, "n": 16}).encode()
    connections = []
    for _ in range(2):
        one = socket.socket()
        one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        one.connect(("127.0.0.1", strict.port))
        one.sendall(request_bytes("POST", "/v1/completions", JSON_TYPE, body, key=API_KEY))
        connections.append(one)
    assert eventually(lambda: num_cut_off() == num_before + 2, 120.0)
    assert _num_busy(strict.port) == 0
    assert resident_bytes(strict.pid) - before < 32 * MIB
    for one in connections:
        one.close()


def test_pipelined_requests_get_one_answer_and_the_end(strict: ServedProcess) -> None:
    one = request_bytes("POST", "/v1/completions", JSON_TYPE, COMPLETION, key=API_KEY)
    with RawConnection(strict.port) as connection:
        answer = connection.send(one * 3).answer()
        assert (answer.status, answer.headers["connection"]) == (200, "close")
        assert connection.is_closed()


def test_upgrades_are_ignored(strict: ServedProcess) -> None:
    for protocol in ("websocket", "h2c"):
        headers = {"Connection": "Upgrade", "Upgrade": protocol, "Sec-WebSocket-Key": "x", **JSON_TYPE}
        data = request_bytes("POST", "/v1/completions", headers, COMPLETION, key=API_KEY)
        assert exchange(strict.port, data).status == 200


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
