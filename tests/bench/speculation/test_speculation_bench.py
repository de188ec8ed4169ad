"""The comparison on the embedded model: equal texts, acceptance as asked for, and what the command prints."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from vivace.bench.speculation import Method, SpeculationBench
from vivace.bench.speculation_prompts import Prompts
from vivace.cli.app import app
from vivace.core.config import EngineConfig
from vivace.core.sampling import SamplingParams
from vivace.core.speculation import SpeculativeConfig
from vivace.engine.loader import load_engine
from vivace.resources import embedded_model_path

MOST = 3


@pytest.fixture(scope="module")
def bench() -> SpeculationBench:
    config = EngineConfig(max_model_len=160, max_num_seqs=4, num_kv_blocks=64)
    loaded = load_engine(config)
    assert loaded.tokenizer is not None
    prompts = Prompts(loaded.tokenizer.encode, loaded.spec.vocab_size, 0, None)
    params = SamplingParams(max_tokens=80, temperature=0.7, seed=1, ignore_eos=True)
    return SpeculationBench(loaded, config, prompts, params, rounds=3, clock=time.perf_counter)


@pytest.mark.parametrize("rate", [0.0, 0.6, 1.0])
def test_synthetic_guesses_stand_as_often_as_asked(bench: SpeculationBench, rate: float) -> None:
    method = Method("synthetic", SpeculativeConfig("ngram", num_speculative_tokens=MOST), rate)
    (found,) = bench.compare(method, [(4, 40)])
    assert found.stood[0] == pytest.approx(rate, abs=0.08)
    assert len(found.speedups) == len(found.always_speedups) == 3
    assert found.guess_s is None
    assert found.tokens_per_step <= 1 + MOST


def test_methods_and_sizes(bench: SpeculationBench) -> None:
    method = Method("n-gram", SpeculativeConfig("ngram", num_speculative_tokens=MOST))
    found = list(bench.compare(method, [(1, 30), (2, 60)]))
    assert [(one.batch_size, one.prompt_len) for one in found] == [(1, 30), (2, 60)]
    assert all(one.plain_tokens_per_s > 0 for one in found)


def test_step_costs_know_every_number_of_guesses(bench: SpeculationBench) -> None:
    (costs,) = bench.step_costs(MOST, [(2, 40)])
    assert len(costs.step_s) == MOST + 1
    assert all(one > 0 for one in costs.step_s)


@pytest.fixture
def arguments() -> list[str]:
    return ["bench", "speculate", "--batch-size", "1", "--prompt-len", "32", "--output-len", "8", "--rounds", "1"]


def test_the_command(arguments: list[str], tmp_path: Path) -> None:
    chart = tmp_path / "page.html"
    result = CliRunner().invoke(app, [*arguments, "--synthetic", "0.5", "--chart", str(chart)])
    assert result.exit_code == 0, result.output
    for name in ("n-gram", "draft model", "Medusa", "synthetic 0.5", "free guesses"):
        assert name in result.output
    page = chart.read_text()
    assert page.startswith("<!DOCTYPE html>")
    assert page.count("<svg") >= 3


def test_the_command_without_weights(arguments: list[str]) -> None:
    dummy = ["--load-format", "dummy", "--config", str(embedded_model_path() / "config.json")]
    result = CliRunner().invoke(app, [*arguments, *dummy, "--num-speculative-tokens", "2", "--json"])
    assert result.exit_code == 0, result.output
    record = json.loads(result.stdout)
    assert [one["method"] for one in record["results"]][1:] == ["synthetic 0.5", "synthetic 0.7", "synthetic 0.9"]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--chart", "page.pdf"], "name it FILE.html"),
        (["--chart", "/absent/page.html"], "there is no folder"),
        (["--speculative-config", '{"method": "ngram"}'], "leave --speculative-config"),
        (["--max-model-len", "20"], "the workload needs 40 tokens"),
        (["--prompts", "/absent"], "cannot read"),
    ],
)
def test_wrong_options(arguments: list[str], more: list[str], message: str) -> None:
    result = CliRunner().invoke(app, [*arguments, *more])
    assert result.exit_code == 2
    assert message in result.output
