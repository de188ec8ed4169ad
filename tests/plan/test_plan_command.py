"""`vivace plan` as it is typed."""

from __future__ import annotations

import json
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


@pytest.mark.parametrize(
    ("options", "words"),
    [
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
        (["--hardware", "l4", "--html", "/nowhere/plan.html"], "cannot be written"),
    ],
)
def test_bad_input_is_one_line_and_code_2(options: list[str], words: str) -> None:
    result = RUNNER.invoke(app, ["plan", "llama-3.2-1b", *options])
    assert result.exit_code == 2
    assert words in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
