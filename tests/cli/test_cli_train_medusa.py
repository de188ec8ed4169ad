"""`vivace train-medusa` trains, reports and refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from command_run import Vivace

from vivace.models.medusa import read_medusa

QUICK = ["--num-heads", "2", "--num-sequences", "4", "--sequence-len", "24", "--prompt-len", "6", "--steps", "3"]
QUICK += ["--batch", "16", "--tree-size", "8", "--seed", "5"]


@pytest.fixture
def text(shared: Path) -> str:
    return str(shared / "eval" / "tinystories_sample.txt")


def test_json_report_is_that_of_the_files(vivace: Vivace, stories: str, text: str, tmp_path: Path) -> None:
    output = tmp_path / "heads"
    done = vivace("train-medusa", stories, "--data", text, "-o", str(output), *QUICK, "--json")
    report = json.loads(done.stdout)
    heads = read_medusa(output)
    assert (heads.num_heads, heads.facts["training"]["seed"]) == (2, 5)
    assert report["output"] == str(output)
    for head, accuracy in enumerate(heads.facts["accuracy"]):
        for k, share in report["top_k_accuracy"][head].items():
            assert share == pytest.approx(sum(accuracy[: int(k)]), abs=1e-5)
    assert report["expected_tokens"] == pytest.approx(heads.facts["expected_tokens"], abs=1e-4)


def test_text_report_and_data_given_twice(vivace: Vivace, stories: str, text: str, tmp_path: Path) -> None:
    (tmp_path / "more.txt").write_text("Once upon a time there was a cat. " * 40)
    data = ["--data", text, "--data", str(tmp_path / "more.txt")]
    done = vivace("train-medusa", stories, *data, "-o", str(tmp_path / "heads"), *QUICK, "--no-self-distill")
    assert done.code == 0
    assert [line.split()[0] for line in done.stdout.splitlines()[:3]] == ["accuracy", "head", "head"]
    assert "tokens a step" in done.stdout
    assert str(tmp_path / "heads") in done.stderr


def test_mistakes(vivace: Vivace, stories: str, text: str, tmp_path: Path) -> None:
    output = str(tmp_path / "heads")
    for arguments, message in (
        ([stories, "--data", str(tmp_path / "none.txt"), "-o", output], "no such file"),
        ([stories, "--data", text, "-o", output, "--num-heads", "0"], "num_heads"),
        ([stories, "--data", text, "-o", output, "--sequence-len", "4"], "sequence_len"),
        ([stories, "--data", text, "-o", output, "--sequence-len", "600", "--num-sequences", "2"], "context of 512"),
        ([str(tmp_path / "model"), "--data", text, "-o", output], "neither a directory"),
        ([stories, "--data", text], "--output"),
        ([stories, "-o", output], "--data"),
    ):
        done = vivace("train-medusa", *arguments)
        assert done.code == 2
        assert message in done.stderr
    assert not (tmp_path / "heads").exists()
