"""`vivace bench compare` as a command."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from command_run import Vivace

from vivace.bench.store.result_store import ResultStore

MOCK = Path(__file__).parents[2] / "benches" / "mock_server.py"
LOAD = ("--num-requests", "4", "--warm-up", "1", "--scenario", "uniform", "--prompt-len", "8", "--output-len", "4")


@pytest.fixture
def urls() -> Iterator[list[str]]:
    """Two servers that answer at once."""
    with ExitStack() as stack:
        found = []
        for _ in range(2):
            process = stack.enter_context(
                subprocess.Popen([sys.executable, str(MOCK)], stdout=subprocess.PIPE, text=True)
            )
            stack.callback(process.kill)
            assert process.stdout is not None
            found.append(f"http://127.0.0.1:{int(process.stdout.readline())}")
        yield found


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "results.sqlite"


def test_rounds_alternate_and_every_run_is_kept(vivace: Vivace, urls: list[str], store: Path) -> None:
    done = vivace("bench", "compare", *urls, *LOAD, "--rounds", "3", "--store", str(store), "--json")
    assert done.code == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["runs"] == [[1, 2], [4, 3], [5, 6]]
    assert found["ratios"]["ttft_ms p50"]["low"] <= found["ratios"]["ttft_ms p50"]["ratio"]
    with ResultStore(store, read_only=True) as kept:
        runs = kept.runs(kind="compare")
        assert [(run.options["side"], run.options["round"]) for run in runs] == [
            ("A", 1), ("B", 1), ("B", 2), ("A", 2), ("A", 3), ("B", 3),
        ]  # fmt: skip
        assert all(run.num_requests == 4 for run in runs)


def test_a_table_for_people(vivace: Vivace, urls: list[str], store: Path) -> None:
    done = vivace("bench", "compare", *urls, *LOAD, "--rounds", "1", "--store", str(store))
    assert done.code == 0, done.stderr
    assert done.stdout.startswith(f"A: mock at {urls[0]}\nB: mock at {urls[1]}\n")
    assert "ttft_ms p50" in done.stdout


def test_one_side_that_is_not_there(vivace: Vivace, urls: list[str], store: Path) -> None:
    done = vivace("bench", "compare", urls[0], "http://127.0.0.1:1", *LOAD, "--store", str(store))
    assert done.code == 2
    assert "no server answers at http://127.0.0.1:1" in done.stderr
