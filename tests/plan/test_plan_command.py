"""`vivace plan` as it is typed."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from typer.testing import CliRunner

from vivace.cli.app import app

RUNNER = CliRunner()


def test_json_has_a_candidate_for_each_machine_and_quantization() -> None:
    result = RUNNER.invoke(
        app, ["plan", "llama-3.1-8b", "--hardware", "h100,t4", "--quantization", "bf16,awq", "--json"]
    )
    assert result.exit_code == 0, result.output
    record = json.loads(result.stdout)
    pairs = [(one["machine"], one["quantization"]) for one in record["candidates"]]
    assert pairs == [("h100", "bf16"), ("h100", "awq"), ("t4", "bf16"), ("t4", "awq")]
    assert [one["fits"] for one in record["candidates"]] == [True, True, False, True]
    assert all(one["source"] and one["basis"] for one in record["candidates"])


def test_the_table_the_reasons_and_the_page(tmp_path: Path) -> None:
    file = tmp_path / "plan.html"
    options = ["--hardware", "l4", "--slo", "ttft:500", "--price", "l4=0.8/h", "--html", str(file)]
    options += ["--max-num-seqs", "32", "--quantization", "bf16,awq"]
    result = RUNNER.invoke(app, ["plan", "llama-3.2-3b", *options], env={"COLUMNS": "200"})
    assert result.exit_code == 0, result.output
    assert "cheapest a token: NVIDIA L4" in result.stdout
    assert "p50 / p95" in result.stdout
    assert "assumed for GPUs" in result.stdout
    assert file.read_text().startswith("<!DOCTYPE html>")


def test_sizes_of_a_small_model_are_no_zeros() -> None:
    result = RUNNER.invoke(app, ["plan", "--hardware", "l4,l4", "--quantization", "bf16"], env={"COLUMNS": "200"})
    assert result.exit_code == 0, result.output
    assert "embedded, 3.41 M parameters" in result.stdout
    assert "0.0068" in result.stdout
    assert result.stdout.count("0.0068") == 1, "a machine that is named twice has one row"


def test_it_says_what_narrower_weights_would_bring() -> None:
    options = ["--hardware", "h100", "--quantization", "bf16,awq", "--price", "h100=2"]
    result = RUNNER.invoke(app, ["plan", "llama-3.1-8b", *options])
    assert result.exit_code == 0, result.output
    best = next(line for line in result.stdout.splitlines() if "cheapest a token" in line)
    assert "with bf16 weights" in best
    assert "awq weights give 1." in best
    assert "lose text" in best


def test_more_users_than_one_machine_could_have_are_divided() -> None:
    options = ["--hardware", "h100", "--quantization", "bf16", "--users", "5000", "--slo", "ttft:500,tpot:50"]
    result = RUNNER.invoke(app, ["plan", "llama-3.1-8b", *options, "--json"])
    assert result.exit_code == 0, result.output
    (candidate,) = json.loads(result.stdout)["candidates"]
    assert candidate["num_machines"] == math.ceil(5000 / candidate["capacity"]["users"])


def test_a_file_that_is_not_there_is_no_preset() -> None:
    result = RUNNER.invoke(app, ["plan", "nowhere.json"])
    assert result.exit_code == 2
    assert "there is no file nowhere.json" in result.stderr


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--hardware", "h100", "--price", "a100=2/h"], "did you mean 'a100-80'"),
        (["--hardware", "l4", "--users", "5000"], "need an --slo"),
        (["--hardware", "h1000"], "did you mean 'h100'"),
        (["--hardware", ""], "needs a name"),
        (["--hardware", "l4", "--calibrate"], "add `this`"),
        (["--workload", "chatt"], "did you mean 'chat'"),
        (["--slo", "ttfb:5"], "did you mean 'ttft'"),
        (["--price", "h100"], "a price is"),
        (["--price", "h100=-1/h"], "a price is"),
        (["--quantization", "int3"], "unknown quantization"),
        (["--kv-cache-dtype", "int3"], "must be one of"),
        (["--hardware", "l4", "--rate", "0"], "above 0"),
        (["--hardware", "l4", "--rate", "1", "--users", "2"], "not both"),
        (["--hardware", "l4", "--workload", "chat", "--trace", "x.csv"], "not both"),
        (["--hardware", "l4", "--trace", "/nowhere.csv"], "nowhere"),
        (["--hardware", "l4", "--slo-percentile", "0"], "above 0"),
        (["--hardware", "l4", "--workload", "100:20:100"], "at most 99"),
        (["--hardware", "l4", "--workload", "9000:20"], "more than the context"),
        (["--hardware", "l4", "--max-model-len", "1000000"], "own context"),
        (["--hardware", "l4", "--speculative-config", "{}"], "needs a method"),
        (["--hardware", "l4", "--speculative-config", '{"method": "ngram"}', "--acceptance", "2"], "0 to 1"),
        (["--hardware", "l4", "--html", "/nowhere/plan.html"], "cannot write /nowhere/plan.html"),
    ],
)
def test_bad_input_is_one_line_and_code_2(options: list[str], words: str) -> None:
    result = RUNNER.invoke(app, ["plan", "llama-3.2-1b", *options])
    assert result.exit_code == 2
    assert words in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
