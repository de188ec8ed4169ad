"""From the first line of the log to the exit code: loading, draining, signals, failures at the start."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import urllib.error
import urllib.request
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
from hostile_requests import is_healthy
from raw_http import RawConnection, exchange, request_bytes
from served_process import (
    API_KEY,
    SMALL,
    ServedProcess,
    child_pids,
    eventually,
    is_gone,
    served,
    standing_still,
)

JSON_TYPE = {"Content-Type": "application/json"}
STREAM = {"prompt": "Once", "max_tokens": 600, "ignore_eos": True, "temperature": 0, "stream": True}
ENDLESS = {**STREAM, "max_tokens": 1000, "n": 16}


@pytest.fixture
def port_file(tmp_path: Path) -> Path:
    return tmp_path / "port"


def _post(body: dict[str, object]) -> bytes:
    return request_bytes("POST", "/v1/completions", JSON_TYPE, json.dumps(body).encode(), key=API_KEY)


def _begin(process: ServedProcess, body: dict[str, object]) -> RawConnection:
    """A stream whose first bytes are there."""
    connection = RawConnection(process.port).send(_post(body))
    assert connection.socket.recv(1, socket.MSG_PEEK)
    return connection


def test_a_drained_server_loses_nothing(port_file: Path) -> None:
    """The engine stands still, so that the stream cannot end before the server has been asked everything."""
    with served(*SMALL, "--drain-timeout", "600", "--port-file", str(port_file)) as process:
        process.wait_ready()
        assert port_file.read_text() == f"{process.port}\n"
        children = child_pids(process.pid)
        assert process.engine_pid in children
        assert _listening_sockets(process.pid) == 1
        assert [_listening_sockets(child) for child in children] == [0] * len(children)
        undisturbed = exchange(process.port, _post(STREAM)).body
        with ExitStack() as opened:
            with standing_still(process.engine_pid):
                running = opened.enter_context(_begin(process, STREAM))
                with RawConnection(process.port) as idle:
                    assert idle.send(request_bytes(target="/health")).answer().status == 200
                    process.ask_to_end()
                    process.line_with("draining")
                    assert idle.is_closed()
                _check_draining(process.port)
            assert _texts(running.answer().body) == _texts(undisturbed)
        assert process.wait_ended() == 0
        assert all(map(is_gone, children))
        assert not port_file.exists()


def _check_draining(port: int) -> None:
    """Who comes now is refused, who watches is answered."""
    ready = exchange(port, request_bytes(target="/ready"))
    assert (ready.status, json.loads(ready.body)["status"]) == (503, "draining")
    refused = exchange(port, _post(STREAM))
    assert (refused.status, refused.headers["connection"]) == (503, "close")
    assert int(refused.headers["retry-after"]) >= 1
    assert refused.error["type"] == "unavailable_error"
    assert exchange(port, request_bytes(target="/health")).status == 200
    assert exchange(port, request_bytes(target="/metrics", key=API_KEY)).status == 200


def test_the_drain_time_ends() -> None:
    with served(*SMALL, "--drain-timeout", "0.2") as process:
        process.wait_ready()
        engine_pid = process.engine_pid
        with standing_still(engine_pid), _begin(process, ENDLESS) as running:
            process.ask_to_end()
            process.line_with("drain time is over")
            assert running.is_closed()
        assert process.wait_ended() == 0
        assert is_gone(engine_pid)


def test_a_second_signal_is_final() -> None:
    with served(*SMALL, "--drain-timeout", "600") as process:
        process.wait_ready()
        engine_pid = process.engine_pid
        with standing_still(engine_pid), _begin(process, ENDLESS) as running:
            process.ask_to_end(signal.SIGINT)
            process.line_with("draining")
            process.ask_to_end(signal.SIGTERM)
            process.line_with("a second signal")
            assert running.is_closed()
        assert process.wait_ended() == 128 + signal.SIGTERM
        assert is_gone(engine_pid)


def test_loading_answers_503_and_can_be_ended(tmp_path: Path) -> None:
    """A pipe as the model's configuration: loading waits for whoever writes to it."""
    config = tmp_path / "config.json"
    os.mkfifo(config)
    with served("--load-format", "dummy", "--config", str(config)) as process:
        assert exchange(process.port, request_bytes(target="/health")).status == 200
        ready = exchange(process.port, request_bytes(target="/ready"))
        assert (ready.status, json.loads(ready.body)["status"]) == (503, "loading")
        assert exchange(process.port, request_bytes()).status == 401
        refused = exchange(process.port, request_bytes(key=API_KEY))
        assert refused.status == 503
        assert int(refused.headers["retry-after"]) >= 1
        assert eventually(lambda: len(child_pids(process.pid)) == 1)
        engine_pid = process.engine_pid
        process.ask_to_end()
        assert process.wait_ended() == 0
        assert is_gone(engine_pid)


def test_a_dead_front_leaves_no_child() -> None:
    with served(*SMALL) as process:
        children = child_pids(process.wait_ready().pid)
        process.process.kill()
        assert eventually(lambda: all(map(is_gone, children)))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("/nowhere/model",), "neither a directory"),
        (("--load-format", "dummy", "--config", "no-such-preset"), "no-such-preset"),
        (("--host", "not a host"), "cannot listen on not a host"),
        (("--ssl-certfile", "/nowhere", "--ssl-keyfile", "/nowhere"), "for TLS"),
        (("--port-file", "/nowhere/port"), "cannot write the port"),
    ],
)
def test_a_start_that_fails_says_why_in_one_line(flags: tuple[str, ...], message: str) -> None:
    with served(*flags) as process:
        assert process.wait_ended() == 2
        lines = [line for line in process.lines if line.startswith("vivace: ")]
        assert len(lines) == 1
        assert message in lines[0]
        assert not [line for line in process.lines if "Traceback" in line]


def test_a_port_in_use_is_an_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with served(port=port) as process:
            assert process.wait_ended() == 2
            line = f"vivace: cannot listen on 127.0.0.1:{port}: Address already in use; name another --port"
            assert any(one.startswith(line) for one in process.lines)


def test_few_open_files_mean_few_connections() -> None:
    """Where the system allows 400 files, there are fewer connections; a flood of them ends nobody."""
    with served(*SMALL, "--host", "localhost", max_files=400) as process:
        process.wait_ready()
        assert "16 connections at once instead of 4096" in process.line_with("connections at once")["message"]
        sockets = [socket.create_connection(("127.0.0.1", process.port)) for _ in range(600)]
        for one in sockets:
            one.close()
        assert eventually(lambda: is_healthy(process.port))  # these 600 have been seen to leave
        with _begin(process, STREAM) as running:
            assert _texts(running.answer().body)


def test_open_to_all_without_a_key_is_a_warning() -> None:
    with served(*SMALL, "--host", "0.0.0.0", api_key=None) as process:
        assert process.line_with("anybody may use it")["level"] == "WARNING"


def test_tls_cross_origin_and_the_environment_key(tmp_path: Path) -> None:
    certificate, key = _self_signed(tmp_path)
    flags = ("--ssl-certfile", certificate, "--ssl-keyfile", key, "--cors-allow-origin", "https://page.example")
    with served(*SMALL, *flags, api_key=None, environment={"VIVACE_API_KEY": "from-environment"}) as process:
        process.wait_ready()
        context = ssl.create_default_context(cafile=certificate)
        url = f"https://localhost:{process.port}/v1/models"
        asked = urllib.request.Request(
            url, headers={"Authorization": "Bearer from-environment", "Origin": "https://page.example"}
        )
        with urllib.request.urlopen(asked, context=context, timeout=60) as answer:
            assert answer.status == 200
            assert answer.headers["Access-Control-Allow-Origin"] == "https://page.example"
        preflight = urllib.request.Request(
            url,
            method="OPTIONS",
            headers={
                "Origin": "https://page.example",
                "Access-Control-Request-Method": "POST",
                "Access-Control-Request-Headers": "authorization,content-type",
            },
        )
        with urllib.request.urlopen(preflight, context=context, timeout=60) as answer:
            assert answer.headers["Access-Control-Allow-Origin"] == "https://page.example"
        with pytest.raises(urllib.error.HTTPError) as refusal:
            urllib.request.urlopen(url, context=context, timeout=60)
        with refusal.value:
            assert refusal.value.code == 401
        with RawConnection(process.port) as plain:
            assert plain.send(request_bytes()).is_closed()


def _self_signed(directory: Path) -> tuple[str, str]:
    if shutil.which("openssl") is None:
        pytest.skip("no openssl command to make a certificate with")
    certificate, key = str(directory / "certificate.pem"), str(directory / "key.pem")
    names = ("-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1")
    made = ("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2")
    subprocess.run(
        ["openssl", *made, "-keyout", key, "-out", certificate, *names], check=True, capture_output=True, timeout=60
    )
    return certificate, key


def _texts(stream: bytes) -> list[str]:
    events = [line.removeprefix(b"data: ") for line in stream.split(b"\n") if line.startswith(b"data: ")]
    assert events[-1] == b"[DONE]"
    return ["".join(json.loads(event)["choices"][0]["text"] for event in events[:-1])]


def _listening_sockets(pid: int) -> int:
    """TCP and Unix sockets of a process on which it listens."""
    inodes = set()
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # closed since
            inodes.add(os.readlink(link).removeprefix("socket:[").removesuffix("]"))
    listening = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            columns = line.split()
            if columns[3] == "0A":
                listening.add(columns[9])
    for line in Path(f"/proc/{pid}/net/unix").read_text().splitlines()[1:]:
        columns = line.split()
        if int(columns[3], 16) & 0x10000:
            listening.add(columns[6])
    return len(inodes & listening)
