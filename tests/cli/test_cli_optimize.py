"""`vivace optimize` from outside: files, tables, errors, going on, what serve reads."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from command_run import Vivace

from vivace.cli.serve import configurations
from vivace.evaluate.evaluation import sample_text
from vivace.optimize.search import Search

QUICK = ("--time-budget", "10s", "--num-threads", "1", "--max-model-len", "512")


@pytest.fixture(autouse=True)
def own_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIVACE_STORE", str(tmp_path / "results.sqlite"))


def test_interrupted_and_taken_up_again(vivace: Vivace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first run is interrupted and keeps what it has; the second goes on, and writes what serve reads."""
    output, report, text = (tmp_path / name for name in ("vivace.toml", "report.html", "text.txt"))
    text.write_text(sample_text()[:1200])
    options = (*QUICK, "-o", str(output), "--dataset", str(text))

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Search, "climb", interrupt)
        done = vivace("optimize", *options)
    assert done.code == 130, done.stderr
    assert "goes on from here" in done.stderr
    assert "quantization" in output.read_text()
    done = vivace("optimize", *options, "--report", str(report), "--json", "--emit", "vllm")
    assert done.code == 0, done.stderr
    assert "going on from" in done.stderr
    answer, _ = json.JSONDecoder().raw_decode(done.stdout)
    assert "vllm serve" in done.stdout
    _check_configuration(output, answer["pick"]["candidate"])
    page = report.read_text()
    assert "<script" not in page
    assert "http://" not in page.replace("http://www.w3.org", "")


def _check_configuration(output: Path, picked: dict[str, object]) -> None:
    engine, server = configurations({"config": str(output)}, {})
    for name in ("quantization", "kv_cache_dtype", "max_num_seqs", "max_num_batched_tokens", "block_size"):
        assert getattr(engine, name) == picked[name]
    assert (engine.num_threads, engine.max_model_len, server.host) == (1, 512, "127.0.0.1")
    lines = output.read_text().splitlines()
    for number, line in enumerate(lines):
        assert not line or line.startswith(("#", "[")) or lines[number - 1].startswith("# "), f"no reason for {line}"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--slo", "ttft:soon"), "objective is NAME:MILLISECONDS"),
        (("--max-quality-loss", "kl:much"), "bar on quality"),
        (("--max-quality-loss", "task:1"), "--task"),
        (("--max-memory", "plenty"), "memory is a number"),
        (("--objective", "beauty"), "unknown objective"),
        (("--objective", "goodput"), "--slo"),
        (("--time-budget", "soon"), "time budget"),
        (("--workload", "chta"), "unknown workload"),
        (("--workload", "trace:/no/where.csv"), "no trace"),
        (("--emit", "vlm"), "vllm"),
        (("-o", "here.json"), ".toml"),
        (("-o", "/no/where/vivace.toml"), "no folder"),
        (("--report", "report.pdf"), ".html"),
        (("--dataset", "/no/where.txt"), "cannot read"),
        (("--max-model-len", "9999"), "window"),
        (("/no/where",), "neither a directory"),
    ],
)
def test_mistakes_are_told_before_anything_runs(vivace: Vivace, arguments: tuple[str, ...], words: str) -> None:
    done = vivace("optimize", *arguments)
    assert done.code == 2
    assert words in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_file_of_somebody_else_is_left_alone(vivace: Vivace, tmp_path: Path) -> None:
    output = tmp_path / "vivace.toml"
    output.write_text("[engine]\nmax_num_seqs = 3\n")
    done = vivace("optimize", "-o", str(output))
    assert done.code == 2
    assert "was not written by vivace optimize" in done.stderr
    assert output.read_text() == "[engine]\nmax_num_seqs = 3\n"
