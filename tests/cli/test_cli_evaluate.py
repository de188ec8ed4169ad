"""`vivace evaluate`: the figures of evaluate/ as a table, as JSON and as a chart, and what it refuses."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from command_run import Vivace

from vivace.evaluate.evaluation import sample_text

QUESTION = {"query": "Question: Which is cold?", "choices": ["fire", "ice"], "gold": 1}


@pytest.fixture
def story(tmp_path: Path) -> str:
    path = tmp_path / "text.txt"
    path.write_text("Once upon a time there was a little dog. He liked to play in the park. " * 12)
    return str(path)


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
    for name in ("kl_divergence_mean", "kl_divergence_p99", "top1_agreement", "reference"):
        assert record[name] is None


def test_a_model_against_itself_with_other_options(vivace: Vivace, stories: str, story: str) -> None:
    options = ("evaluate", stories, "--dataset", story, "--reference", stories, "--json")
    same = json.loads(vivace(*options).stdout)
    assert (same["kl_divergence_mean"], same["kl_divergence_p99"], same["top1_agreement"]) == (0.0, 0.0, 1.0)
    coarse = json.loads(vivace(*options, "--quantization", "int4").stdout)
    assert coarse["kl_divergence_mean"] > 1e-4
    assert coarse["kl_divergence_p99"] >= coarse["kl_divergence_mean"]
    assert 0 < coarse["top1_agreement"] <= 1
    assert coarse["reference"]["perplexity"] == same["perplexity"]
    equal = json.loads(vivace(*options, "--quantization", "int4", "--reference-quantization", "int4").stdout)
    assert equal["kl_divergence_mean"] == 0.0
    cache = json.loads(
        vivace(*options, "--kv-cache-dtype", "int8_per_token_head", "--reference-kv-cache-dtype", "f32").stdout
    )
    assert 0 < cache["kl_divergence_mean"] < coarse["kl_divergence_mean"]
    assert (cache["kv_cache_dtype"], cache["reference"]["kv_cache_dtype"]) == ("int8_per_token_head", "f32")


def test_other_vocabularies(vivace: Vivace, stories: str, story: str) -> None:
    done = vivace("evaluate", stories, "--dataset", story, "--reference", "default")
    assert done.code == 0
    assert "different vocabularies" in done.stderr
    assert "KL" not in done.stdout


def test_defaults_are_the_embedded_model_and_the_built_in_text(vivace: Vivace) -> None:
    record = json.loads(vivace("evaluate", "--json").stdout)
    assert record["model"] == "embedded"
    assert record["dataset"] == "built-in sample"
    assert record["num_bytes"] == pytest.approx(len(sample_text().encode()), abs=8)  # less the first token


def test_tasks_beside_a_reference(vivace: Vivace, stories: str, story: str, tmp_path: Path) -> None:
    task, chart, output = tmp_path / "cold.jsonl", tmp_path / "chart.svg", tmp_path / "out.json"
    task.write_text("\n".join([json.dumps(QUESTION)] * 3))
    words = tmp_path / "words.jsonl"
    words.write_text('{"text": "Once upon a time"}\n{"text": "It was big"}\n')
    options = ["--task", str(task), "--task", f"lambada:{words}", "--limit", "2", "--num-fewshot", "1"]
    tasks = vivace("evaluate", stories, *options, "--json")
    record = json.loads(tasks.stdout)
    assert record["perplexity"] is None  # no text was asked for
    assert record["tasks"]["cold"]["num_items"] == 2
    assert (
        record["tasks"]["words"] | {"format": "lambada", "num_items": 1, "num_fewshot": 1} == record["tasks"]["words"]
    )
    files = ("--chart", str(chart), "--output", str(output))
    done = vivace("evaluate", stories, *options, "--dataset", story, "--reference", stories, *files)
    assert done.code == 0
    written = json.loads(output.read_text())
    assert written["tasks"] == record["tasks"] == written["reference"]["tasks"]
    assert "cold acc_norm" in done.stdout
    assert "stride" in done.stderr
    assert chart.read_text().startswith("<svg")
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".json", ".jsonl", ".jsonl", ".svg", ".txt"]


def test_an_interrupted_evaluation_goes_on(
    vivace: Vivace, stories: str, story: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "out.json"
    options = ["evaluate", stories, "--dataset", story, "--reference", stories, "--quantization", "int8"]
    options += ["--window", "64", "--output", str(output)]
    from vivace.evaluate import quality

    compare, seen = quality._compare_window, []

    def counted(*arguments: object) -> object:
        seen.append(arguments)
        if len(seen) == 3:
            raise KeyboardInterrupt
        return compare(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(quality, "_compare_window", counted)
    assert vivace(*options).code == 130
    assert not output.exists()
    other = vivace(*options, "--stride", "8")
    assert other.code == 2
    assert "another evaluation" in other.stderr
    assert vivace(*options).code == 0
    resumed = output.read_text()
    num_windows = json.loads(resumed)["num_windows"]
    assert len(seen) == num_windows + 1  # the third window twice
    vivace(*options)
    assert output.read_text() == resumed


def test_text(vivace: Vivace, stories: str, story: str) -> None:
    done = vivace("evaluate", stories, "--dataset", story)
    assert "perplexity" in done.stdout
    assert "bits per byte" in done.stdout
    assert "reference" not in done.stdout


def test_mistakes(vivace: Vivace, stories: str, tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\x00")
    (tmp_path / "text.txt").write_text("Once upon a time")
    (tmp_path / "task.jsonl").write_text(json.dumps(QUESTION) + "\n{}")
    text = ("--dataset", str(tmp_path / "text.txt"))
    mistakes = {
        "No such file": ("--dataset", str(tmp_path / "none.txt")),
        "UTF-8": ("--dataset", str(tmp_path / "binary")),
        "stride": (*text, "--window", "8", "--stride", "8"),
        "512": (*text, "--window", "513"),
        "--limit is of tasks": (*text, "--limit", "3"),
        "--num-fewshot is of tasks": (*text, "--num-fewshot", "3"),
        "line 2": ("--task", str(tmp_path / "task.jsonl")),
        ".svg or .html": (*text, "--chart", str(tmp_path / "chart.png")),
        "no folder": (*text, "--output", str(tmp_path / "none" / "out.json")),
        "quantization": (*text, "--reference", stories, "--reference-quantization", "int3"),
        "hub name": (*text, "--reference", str(tmp_path / "none")),
    }
    for message, options in mistakes.items():
        done = vivace("evaluate", stories, *options)
        assert done.code == 2, options
        assert message in done.stderr
        assert done.stderr.count("\n") == 1
