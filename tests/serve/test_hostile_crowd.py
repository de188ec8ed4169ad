"""Hundreds of hostile connections at once: canaries sing on, and every file descriptor comes back."""

from __future__ import annotations

import os
import random
import socket
import struct
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

from canaries import singing
from hostile_requests import JSON_TYPE, MAX_CONNECTIONS, chunked_head, chunks, complete
from raw_http import RawConnection, request_bytes
from served_process import API_KEY, ServedProcess, eventually

NUM_CONNECTIONS = 600
NUM_THREADS = 6
STREAM = b'{"prompt": "Once", "max_tokens": 200, "ignore_eos": true, "stream": true}'
VALID = request_bytes("POST", "/v1/completions", JSON_TYPE, STREAM, key=API_KEY)
OFFER = {**JSON_TYPE, "Connection": "Upgrade", "Upgrade": "h2c"}

Attack = Callable[[RawConnection, random.Random], object]


def _mutated(connection: RawConnection, generator: random.Random) -> None:
    data = bytearray(VALID)
    for _ in range(generator.randint(1, 8)):
        data[generator.randrange(len(data))] = generator.randrange(256)
    connection.send(bytes(data))
    connection.socket.shutdown(socket.SHUT_WR)
    connection.rest()


def _cut(connection: RawConnection, generator: random.Random) -> None:
    connection.send(VALID[: generator.randrange(len(VALID))])


def _reset(connection: RawConnection, generator: random.Random) -> None:
    connection.send(VALID).socket.recv(generator.randint(1, 5_000))
    connection.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def _pipelined(connection: RawConnection, generator: random.Random) -> None:
    connection.send(VALID * generator.randint(2, 5)).socket.recv(generator.randint(1, 5_000))


def _crumbs(connection: RawConnection, generator: random.Random) -> None:
    connection.send(chunked_head() + chunks([b" "] * generator.randint(1, 3_000))).socket.recv(1_000)


def _long_head(connection: RawConnection, generator: random.Random) -> None:
    connection.send(request_bytes(headers={"X": "a" * generator.randint(1, 200_000)})).socket.recv(1_000)


def _upgrade(connection: RawConnection, generator: random.Random) -> None:
    data = request_bytes("POST", "/v1/completions", OFFER, STREAM, key=API_KEY)
    connection.send(data * generator.randint(1, 2)).socket.recv(generator.randint(1, 3_000))


def _noise(connection: RawConnection, generator: random.Random) -> None:
    connection.send(generator.randbytes(300)).socket.recv(100)


ATTACKS: list[Attack] = [_mutated, _cut, _reset, _pipelined, _crumbs, _long_head, _upgrade, _noise]


def test_a_crowd_hurts_nobody(strict: ServedProcess) -> None:
    def num_files() -> int:
        return len(os.listdir(f"/proc/{strict.pid}/fd"))

    def attack(number: int) -> None:
        generator = random.Random(number)
        with suppress(ConnectionError), RawConnection(strict.port) as connection:
            generator.choice(ATTACKS)(connection, generator)

    assert NUM_THREADS + 8 < MAX_CONNECTIONS
    assert complete(strict.port).status == 200
    num_files_before = num_files()
    with singing(strict), ThreadPoolExecutor(NUM_THREADS) as pool:
        list(pool.map(attack, range(NUM_CONNECTIONS)))
    assert eventually(lambda: num_files() <= num_files_before)
    assert not [line for line in strict.logs if line["level"] not in ("INFO", "WARNING")]
    assert complete(strict.port).status == 200
