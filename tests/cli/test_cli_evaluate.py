"""`vivace evaluate` reads a file and prints the figures that evaluate/perplexity gives."""

from __future__ import annotations

import json
import math
from pathlib import Path

from command_run import Vivace


def test_json_holds_both_measures(vivace: Vivace, stories: str, shared: Path, tmp_path: Path) -> None:
    dataset = tmp_path / "text.txt"
    text = (shared / "eval" / "tinystories_sample.txt").read_text()[:4_000]
    dataset.write_text(text)
    done = vivace("evaluate", stories, "--dataset", str(dataset), "--window", "128", "--stride", "64", "--json")
    record = json.loads(done.stdout)
    assert record["num_bytes"] == len(text.encode())
    nats = record["nats_per_token"] * record["num_tokens"]
    assert record["perplexity"] == math.exp(record["nats_per_token"])
    assert math.isclose(record["bits_per_byte"], nats / math.log(2) / record["num_bytes"])
    assert (record["window"], record["stride"]) == (128, 64)
    assert record["perplexity"] < 10


def test_text(vivace: Vivace, stories: str, tmp_path: Path) -> None:
    dataset = tmp_path / "text.txt"
    dataset.write_text("Once upon a time")
    done = vivace("evaluate", stories, "--dataset", str(dataset))
    assert [line.split()[0] for line in done.stdout.splitlines()] == ["perplexity", "bits"]


def test_mistakes(vivace: Vivace, stories: str, tmp_path: Path) -> None:
    missing = vivace("evaluate", stories, "--dataset", str(tmp_path / "none.txt"))
    (tmp_path / "binary").write_bytes(b"\xff\x00")
    binary = vivace("evaluate", stories, "--dataset", str(tmp_path / "binary"))
    (tmp_path / "text.txt").write_text("Once upon a time")
    stride = vivace("evaluate", stories, "--dataset", str(tmp_path / "text.txt"), "--window", "8", "--stride", "8")
    wide = vivace("evaluate", stories, "--dataset", str(tmp_path / "text.txt"), "--window", "513")
    assert [one.code for one in (missing, binary, stride, wide)] == [2, 2, 2, 2]
    assert "No such file" in missing.stderr
    assert "UTF-8" in binary.stderr
    assert "stride" in stride.stderr
    assert "512" in wide.stderr
