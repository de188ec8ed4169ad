"""What arrives at an open port (the HTTP rows of the list of hostile input): heads, disguises and bodies.

Beside every test eight streams run that must notice nothing.
"""

from __future__ import annotations

import json
import random
import socket
from collections.abc import Iterator
from itertools import pairwise

import pytest
from canaries import singing
from hostile_requests import COMPLETION, JSON_TYPE, chunked_head, chunks, complete
from raw_http import RawConnection, exchange, request_bytes
from served_process import API_KEY, ServedProcess, resident_bytes

import vivace

MIB = 1024 * 1024


@pytest.fixture(scope="module", autouse=True)
def unharmed(strict: ServedProcess) -> Iterator[None]:
    with singing(strict):
        yield


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
PATHS += ("/detokenize", "/metrics", "/openapi.json", "/docs", "/dashboard/state", "/healthz", "/health/", "/ready/x")
PATHS += ("/dashboard", "/dashboard/", "/dashboard/x", "/dashboard/main.js/x")


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


def test_health_ready_and_version_need_no_key(strict: ServedProcess) -> None:
    for path in ("/health", "/ready", "/version"):
        assert exchange(strict.port, request_bytes(target=path)).status == 200
        assert exchange(strict.port, request_bytes(target=path, key="wrong")).status == 200
    version = exchange(strict.port, request_bytes(target="/version"))
    assert json.loads(version.body) == {"version": vivace.__version__}


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
    assert complete(strict.port, body).error["code"] == "body_too_large"
    parts = [body[start : start + 65_536] for start in range(0, len(body), 65_536)]
    answer = exchange(strict.port, chunked_head() + chunks(parts))
    assert (answer.status, answer.error["code"]) == (413, "body_too_large")


def test_chunks_of_one_byte_are_refused(strict: ServedProcess) -> None:
    parts = [b" "] * 3_000_000
    assert exchange(strict.port, chunked_head() + chunks(parts)).status in (400, 413)


def test_ordinary_chunks_are_a_body(strict: ServedProcess) -> None:
    parts = [COMPLETION[start : start + 7] for start in range(0, len(COMPLETION), 7)]
    assert exchange(strict.port, chunked_head() + chunks(parts)).status == 200


def test_a_request_may_come_in_any_pieces(strict: ServedProcess) -> None:
    generator = random.Random(11)
    plain = request_bytes("POST", "/v1/completions", JSON_TYPE, COMPLETION, key=API_KEY)
    pieces = chunked_head() + chunks([COMPLETION[:5], COMPLETION[5:]])
    with RawConnection(strict.port) as connection:
        connection.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for data in (plain, pieces) * 5:
            cuts = [0, *sorted(generator.sample(range(1, len(data)), 6)), len(data)]
            for start, end in pairwise(cuts):
                connection.send(data[start:end])
            assert connection.answer().status == 200


@pytest.mark.parametrize("size", [b"g", b"-1", b"ffffffffffffffffff", b"1 1", b"0x5", b"\xff"])
def test_bad_chunk_sizes_are_400(strict: ServedProcess, size: bytes) -> None:
    assert exchange(strict.port, chunked_head() + size + b"\r\n{}\r\n0\r\n\r\n").status == 400


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
    answer = complete(strict.port, body, {"Content-Length": str(len(body))})
    assert answer.status == 400
    assert answer.error["type"] == "invalid_request_error"
