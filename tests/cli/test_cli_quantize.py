"""`vivace quantize`: files, a report of before and after, and one line for what cannot be."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from command_run import Vivace

TEXT = "Once upon a time there was a little dog. He liked to play in the park with his friend Tim. " * 12


def test_the_report_compares_before_and_after(vivace: Vivace, stories: str, tmp_path: Path) -> None:
    text, out = tmp_path / "text.txt", tmp_path / "out"
    text.write_text(TEXT)
    options = ("--method", "w8a8", "-o", str(out), "--report", "--report-text", str(text))
    done = vivace("quantize", stories, *options, "--json")
    assert done.code == 0, done.stderr
    record = json.loads(done.stdout)
    report = record["report"]
    assert report["before"]["file_bytes"] == record["source_bytes"] > record["output_bytes"]
    assert report["after"]["perplexity"] == pytest.approx(report["before"]["perplexity"], rel=0.05)
    assert 0 < report["kl_divergence_mean"] < 0.05
    assert all(
        report[side][f"{name}_tokens_per_s"] > 0 for side in ("before", "after") for name in ("decode", "prefill")
    )
    evaluated = vivace("evaluate", str(out), "--dataset", str(text), "--reference", stories, "--json")
    assert json.loads(evaluated.stdout)["kl_divergence_mean"] == report["kl_divergence_mean"]


def test_the_embedded_model_with_words(vivace: Vivace, tmp_path: Path) -> None:
    text, out = tmp_path / "text.txt", tmp_path / "out"
    text.write_text(TEXT)
    done = vivace("quantize", "--method", "rtn", "-o", str(out), "--report", "--report-text", str(text))
    assert done.code == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith(f"{out}: 6.8")
    assert lines[-1].startswith("You gain files 2.0")
    assert "you lose" in lines[-1]
    assert "calibrated on no data" in lines[-1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--method", "hqq"), "--method 'hqq' is not known"),
        (("--method", "gptq", "--calibration", "nowhere.txt"), "cannot read nowhere.txt: no such file"),
        (("--method", "rtn", "--alpha", "0.5"), "--alpha does nothing for rtn"),
        (("--method", "rtn", "--skip-layers", "lm_tail"), "'lm_tail' names no layer"),
        (("--method", "rtn", "--report", "--report-text", "nowhere.txt"), "cannot read nowhere.txt"),
    ],
)
def test_bad_input_is_one_line(vivace: Vivace, tmp_path: Path, options: tuple[str, ...], message: str) -> None:
    done = vivace("quantize", *options, "-o", str(tmp_path / "out"))
    assert done.code == 2
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not list(tmp_path.iterdir())
