"""`vivace bench serve` as a command: on our own server, on others, and when they fail or it is killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from command_run import Vivace

from vivace.bench.load.progress import RunProgress
from vivace.bench.store.result_store import ResultStore
from vivace.cli.goodput_command import spread_bounds
from vivace.cli.load_view import line

DEADLINE_S = 60.0
MOCK = Path(__file__).parents[2] / "benches" / "mock_server.py"
LOAD = ("--num-requests", "6", "--warm-up", "1", "--scenario", "uniform", "--prompt-len", "8", "--output-len", "4")


class Mock:
    """A server with known latencies, in a process of its own."""

    def __init__(self, *flags: str) -> None:
        command = [sys.executable, str(MOCK), *flags]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.port = int(self.process.stdout.readline())

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def wait_for(self, num_requests: int) -> int:
        """Until it has had so many; how many it has had."""
        deadline = time.monotonic() + DEADLINE_S
        while time.monotonic() < deadline:
            with urllib.request.urlopen(f"{self.url}/truth", timeout=DEADLINE_S) as answer:
                num_seen = len(json.load(answer))
            if num_seen >= num_requests:
                return num_seen
        raise TimeoutError(f"{num_seen} requests came within {DEADLINE_S} s")

    def __enter__(self) -> Mock:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "results.sqlite"
    monkeypatch.setenv("VIVACE_STORE", str(path))
    return path


def test_our_own_server(vivace: Vivace, store: Path) -> None:
    flags = ("--num-threads", "1", "--num-kv-blocks", "512", "--goodput", "ttft:60000", "tpot:60000")
    done = vivace("bench", "serve", "--num-requests", "5", "--concurrency", "2", *flags, "--json")
    assert done.code == 0
    figures = json.loads(done.stdout)
    assert (figures["num_ok"], figures["server_title"], figures["error"]) == (5, "Vivace", None)
    assert (figures["slo"], figures["goodput_share"]) == ("ttft:60000 tpot:60000", 1.0)
    assert figures["queue_ms"]["count"] == 5
    assert len(ResultStore(store, read_only=True).requests(figures["run"])) == 5
    assert sorted(figures["server_flags"]) == ["--num-kv-blocks", "--num-threads", "1", "512"]


def test_a_table_for_people(vivace: Vivace, store: Path) -> None:
    with Mock() as server:
        done = vivace("bench", "serve", "--url", server.url, *LOAD)
    assert done.code == 0
    assert done.stdout.startswith("mock on vLLM")
    assert "6 of 6 requests answered" in done.stdout
    assert "TTFT" in done.stdout
    assert f"run 1 in {store}" in done.stdout


def test_rates_are_runs_on_one_page(vivace: Vivace, store: Path, tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    with Mock() as server:
        flags = ("--request-rate", "100,200", "--html", str(page), "--json")
        done = vivace("bench", "serve", "--url", server.url, *LOAD, *flags)
    assert done.code == 0
    assert "2 runs" in page.read_text()
    points = json.loads(done.stdout)["points"]
    assert [point["rate"] for point in points] == [100, 200]
    assert [run.num_requests for run in ResultStore(store, read_only=True).runs()] == [6, 6]


def test_a_trace_in_time(vivace: Vivace, store: Path, tmp_path: Path) -> None:
    trace = tmp_path / "trace.csv"
    rows = [f"2023-11-16 18:15:{46 + i}.0000000,{20 + i},3" for i in range(4)]
    trace.write_text("\n".join(["TIMESTAMP,ContextTokens,GeneratedTokens", *rows]))
    with Mock() as server:
        flags = ("--trace", str(trace), "--time-scale", "0.1", "--warm-up", "0")
        done = vivace("bench", "serve", "--url", server.url, *flags, "--json")
    assert done.code == 0, done.stderr
    records = ResultStore(store, read_only=True).requests(1)
    assert [record.intended_s for record in records] == pytest.approx([0.0, 0.1, 0.2, 0.3])


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--url", "http://127.0.0.1:1"), "no server answers at http://127.0.0.1:1"),
        (("--url", "nonsense://x"), "no address of a server"),
        (("--request-rate", "x"), "--request-rate is a number"),
        (("--extra-body", "[1]"), "--extra-body is a JSON object"),
        (("--trace", "x", "--scenario", "chat"), "not both"),
        (("--trace", "x", "--sweep"), "a sweep is over rates"),
        (("--goodput", "tfft:5"), "unknown objective 'tfft'"),
        (
            ("--url", "http://127.0.0.1:1", "--num-threads", "1"),
            "--num-threads is for a server that this command starts",
        ),
        (("/no/such/model",), "the server did not start: /no/such/model is neither"),
    ],
)
@pytest.mark.usefixtures("store")
def test_what_cannot_be_measured(vivace: Vivace, flags: tuple[str, ...], message: str) -> None:
    done = vivace("bench", "serve", *flags)
    assert done.code == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_a_server_that_dies_keeps_its_records(vivace: Vivace, store: Path) -> None:
    with Mock("--die-after", "6", "--owner", "vllm") as server:
        flags = ("--num-requests", "50", "--concurrency", "1", "--warm-up", "0", "--scenario", "uniform")
        done = vivace("bench", "serve", "--url", server.url, *flags, "--prompt-len", "8", "--output-len", "4")
    assert done.code == 2
    assert "the server is gone" in done.stderr
    assert "on vLLM (" in done.stdout  # known though no run was whole
    assert "5 of 1" in done.stdout  # the first of the server's six was the trial
    statuses = [record.status for record in ResultStore(store, read_only=True).requests(1)]
    assert statuses[:5] == ["ok"] * 5
    assert set(statuses[5:]) == {"error"}  # five without a connection, some of them may have come to the dying one
    assert ResultStore(store, read_only=True).run(1).finished_at is None


def test_kill_9_loses_no_finished_request(store: Path) -> None:
    """One user: when the server has the n-th request, the client has finished n - 1, and they must be in the file."""
    with Mock() as server:
        flags = ("--num-requests", "1000", "--concurrency", "1", "--warm-up", "0", "--scenario", "uniform")
        command = [sys.executable, "-m", "vivace", "bench", "serve", "--url", server.url, *flags]
        running = subprocess.Popen(
            [*command, "--prompt-len", "8", "--output-len", "4"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        num_seen = server.wait_for(20)
        os.kill(running.pid, signal.SIGKILL)
        running.wait()
    with ResultStore(store) as kept:
        records = kept.requests(1)
    assert len(records) >= num_seen - 2  # the trial, and the one that was under way
    assert all(record.output_len == 4 and len(record.token_s) == 4 for record in records)


def test_bounds_may_follow_one_another() -> None:
    given = ["m", "--goodput", "ttft:500", "tpot:50", "--seed", "1", "tpot:7"]
    assert spread_bounds(given) == ["m", "--goodput", "ttft:500", "--goodput", "tpot:50", "--seed", "1", "tpot:7"]
    assert spread_bounds(["--goodput", "ttft:500", "http://x:80"]) == ["--goodput", "ttft:500", "http://x:80"]


def test_the_live_line() -> None:
    progress = RunProgress(num_requests=10, num_sent=6, num_running=2, num_ok=3, num_refused=1)
    progress.first_token_s.extend((0.1, 0.2, 0.3))
    shown = line("requests", progress, 12.3, 456.7)
    assert shown == (
        "requests [########............] 4/10 done, 6 sent, 2 running, 1 refused, 457 tok/s, TTFT 200 ms, 12 s"
    )
