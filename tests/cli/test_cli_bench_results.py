"""`vivace bench list`, `show` and `diff` on a small store."""

from __future__ import annotations

import csv
import io
import json
import sqlite3
from pathlib import Path

import pytest
from command_run import Vivace

from vivace.bench.records import RequestRecord, ServerSample
from vivace.bench.store.result_store import ResultStore
from vivace.bench.summary import summarise

GPU = {"name": "NVIDIA H100 80GB HBM3", "memory_gib": 79.6, "driver": "570.86.15"}


def requests(factor: float) -> list[RequestRecord]:
    rows = []
    for index in range(40):
        times = [index + factor * (0.1 + 0.001 * (index % 7) + 0.01 * step) for step in range(5)]
        rows.append(RequestRecord(index, float(index), float(index), times[-1], "ok", 8, 5, tuple(times)))
    return rows


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("results") / "results.sqlite"
    with ResultStore(path) as opened:
        for kind, name, factor in (("serve", "slow chat", 2.0), ("serve", "chat", 1.0), ("optimize", "search", 1.0)):
            machine = {"cpu": "x"} if name != "chat" else {"cpu": "x", "gpu": GPU, "torch": "2.13.0"}
            run = opened.begin(kind, name, {"rate": 1}, machine, command="vivace bench serve")
            for record in requests(factor):
                opened.add_request(run, record)
            opened.add_sample(run, ServerSample(0.0, 1.0, 0.0, 0.5))
            if kind == "serve":
                opened.finish(run, summarise(requests(factor), []).record())
    return path


def test_list(vivace: Vivace, store: Path) -> None:
    lines = vivace("bench", "list", "--store", str(store)).stdout.splitlines()
    assert [line.split()[0] for line in lines[1:]] == ["1", "2", "3"]
    assert lines[3].endswith("search (not finished)")
    for options, numbers in (
        (["--kind", "serve"], [1, 2]),
        (["--name", "CHAT", "--limit", "1"], [2]),
        (["--since", "1h"], [1, 2, 3]),
        (["--since", "2999-01-01"], []),
    ):
        answer = vivace("bench", "list", "--store", str(store), "--json", *options)
        assert [run["id"] for run in json.loads(answer.stdout)] == numbers


def test_show(vivace: Vivace, store: Path, tmp_path: Path) -> None:
    text = vivace("bench", "show", "2", "--store", str(store)).stdout
    assert "run 2: serve chat" in text
    assert "40 requests: 40 answered" in text
    assert "GPU: NVIDIA H100 80GB HBM3, 79.6 GiB, driver 570.86.15, torch 2.13.0" in text
    assert "GPU:" not in vivace("bench", "show", "1", "--store", str(store)).stdout  # from before it was noted
    record = json.loads(vivace("bench", "show", "last", "--store", str(store), "--json").stdout)
    assert (record["id"], record["finished_at"], record["summary"]["num_ok"]) == (3, None, 40)
    rows = list(csv.DictReader(io.StringIO(vivace("bench", "show", "1", "--store", str(store), "--csv", "-").stdout)))
    assert len(rows) == 40
    assert float(rows[0]["ttft_ms"]) == pytest.approx(200)
    page = tmp_path / "report.html"
    vivace("bench", "show", "2", "--store", str(store), "--html", str(page))
    assert "NVIDIA H100 80GB HBM3" in page.read_text()
    assert vivace("bench", "show", "1", "2", "--store", str(store), "--html", str(page)).stdout == ""
    assert page.read_text().startswith("<!DOCTYPE html>")


def test_diff(vivace: Vivace, store: Path) -> None:
    lines = vivace("bench", "diff", "1", "2", "--store", str(store)).stdout.splitlines()
    ttft = next(line for line in lines if line.strip().startswith("TTFT p50"))
    assert "×0.500" in ttft
    assert ttft.endswith("better")
    answer = vivace("bench", "diff", "1", "2", "--goodput", "ttft:150", "--store", str(store), "--json")
    found = {one["name"]: one for one in json.loads(answer.stdout)["differences"]}
    assert found["TPOT p50"]["ratio"] == pytest.approx(0.5)
    assert found["goodput"]["after"] == 1.0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["show", "99"], "no run 99"),
        (["show", "one"], "a run is a number"),
        (["show", "1", "2", "--csv", "-"], "name one"),
        (["show", "1", "--html", "/nowhere/a.html"], "cannot write"),
        (["diff", "1", "2", "--goodput", "speed:1"], "unknown objective"),
        (["list", "--since", "yesterday"], "--since takes"),
    ],
)
def test_wrong_input_is_one_line(vivace: Vivace, store: Path, words: list[str], message: str) -> None:
    answer = vivace("bench", *words, "--store", str(store))
    assert message in answer.stderr
    assert answer.stderr.count("\n") == 1


def test_files_that_cannot_be_read(vivace: Vivace, tmp_path: Path) -> None:
    assert "no results at" in vivace("bench", "list", "--store", str(tmp_path / "none")).stderr
    foreign = tmp_path / "foreign.sqlite"
    connection = sqlite3.connect(foreign)
    connection.execute("CREATE TABLE t (x)")
    connection.close()
    assert "another program" in vivace("bench", "list", "--store", str(foreign)).stderr


def test_prune(vivace: Vivace, store: Path, tmp_path: Path) -> None:
    path = tmp_path / "copy.sqlite"
    with sqlite3.connect(store) as source, sqlite3.connect(path) as copy:
        source.backup(copy)
    source.close()
    copy.close()

    def prune(*options: str) -> dict[str, object]:
        answer = vivace("bench", "prune", "--store", str(path), "--json", *options)
        return dict(json.loads(answer.stdout))

    def kept() -> list[int]:
        with ResultStore(path, read_only=True) as opened:
            return [run.id for run in opened.runs()]

    vague = vivace("bench", "prune", "--store", str(path))
    assert (vague.code, vague.stderr.count("--keep 20")) == (2, 1)
    assert "--yes removes them" in vivace("bench", "prune", "--store", str(path), "--keep", "1").stdout
    assert prune("--keep", "1") == {"runs": [1, 2], "removed": False}
    assert prune("--keep", "0", "--before", "1h") == {"runs": [], "removed": False}
    assert prune("--keep", "0", "--before", "2999-01-01") == {"runs": [1, 2], "removed": False}  # 3 may be under way
    assert prune("--keep", "0", "--kind", "optimize", "--yes") == {"runs": [], "removed": True}
    assert kept() == [1, 2, 3]
    assert prune("--keep", "2", "--yes") == {"runs": [1], "removed": True}
    assert kept() == [2, 3]
    with ResultStore(path, read_only=True) as opened:
        assert (len(opened.requests(1)), len(opened.samples(1)), len(opened.requests(2))) == (0, 0, 40)
