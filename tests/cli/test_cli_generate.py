"""`vivace generate`: words on stdout, everything else on stderr; one line and code 2 when it cannot."""

from __future__ import annotations

import json
import math
import re

import pytest
from command_run import Vivace

# What the model's source publishes as its greedy continuation of "Once upon a time".
PUBLISHED = ", there was a little girl named Lily. She loved to play outside in the park."
GREEDY = ("--prompt", "Once upon a time", "--temperature", "0")


def test_text_goes_to_stdout_and_figures_to_stderr(vivace: Vivace, stories: str) -> None:
    done = vivace("generate", stories, *GREEDY, "--max-tokens", "60")
    assert done.code == 0
    assert done.stdout.startswith(PUBLISHED)
    assert done.stdout.endswith("\n")
    assert "tokens/s" in done.stderr


def test_without_a_model_the_embedded_one_answers(vivace: Vivace) -> None:
    done = vivace("generate", "--prompt", "The sea", "--seed", "1", "--max-tokens", "8", "--json")
    record = json.loads(done.stdout)
    assert len(record["token_ids"]) == 8 or record["finish_reason"] == "stop"
    assert record["text"]


def test_structured_outputs(vivace: Vivace) -> None:
    done = vivace("generate", "--prompt", "Call ", "--structured-outputs", "regex=[0-9]{3}-[0-9]{4}")
    assert re.fullmatch("[0-9]{3}-[0-9]{4}\n", done.stdout)
    for wrong in ("regex=(", "yaml=x", "json_object=x", "regex"):
        refused = vivace("generate", "--prompt", "Call ", "--structured-outputs", wrong)
        assert refused.code == 2
        assert refused.stderr.startswith("vivace: ")


def test_json_holds_text_ids_logprobs_and_timings(vivace: Vivace, stories: str) -> None:
    done = vivace("generate", stories, *GREEDY, "--max-tokens", "8", "--logprobs", "3", "--json")
    record = json.loads(done.stdout)
    assert PUBLISHED.startswith(record["text"])
    assert len(record["token_ids"]) == len(record["logprobs"]) == 8
    assert record["finish_reason"] == "length"
    assert [entry["token_id"] for entry in record["logprobs"]] == record["token_ids"]
    assert all(entry["rank"] == 1 and len(entry["top"]) == 3 for entry in record["logprobs"])
    total = sum(entry["logprob"] for entry in record["logprobs"])
    assert record["cumulative_logprob"] == pytest.approx(total)
    timings = record["timings"]
    assert 0 <= timings["queue_ms"] <= timings["ttft_ms"] <= timings["e2e_ms"]
    assert timings["tpot_ms"] * 7 == pytest.approx(timings["e2e_ms"] - timings["ttft_ms"], abs=5)


def test_json_scores_the_prompt(vivace: Vivace, stories: str) -> None:
    done = vivace("generate", stories, *GREEDY, "--max-tokens", "0", "--prompt-logprobs", "0", "--json")
    record = json.loads(done.stdout)
    scores = record["prompt_logprobs"]
    assert len(scores) == len(record["prompt_token_ids"])
    assert scores[0] is None
    assert all(math.isfinite(entry["logprob"]) and entry["logprob"] <= 0 for entry in scores[1:])
    assert record["token_ids"] == []


def test_n_continuations_of_one_seed_repeat(vivace: Vivace, stories: str) -> None:
    arguments = ("generate", stories, "--prompt", "Lily", "--n", "3", "--seed", "7", "--max-tokens", "12", "--json")
    first, second = (json.loads(vivace(*arguments).stdout) for _ in range(2))
    texts = [output["text"] for output in first["outputs"]]
    assert texts == [output["text"] for output in second["outputs"]]
    assert len(set(texts)) == 3


def test_n_continuations_as_text(vivace: Vivace, stories: str) -> None:
    done = vivace("generate", stories, *GREEDY, "--n", "2", "--max-tokens", "5")
    first, second = done.stdout.splitlines()
    assert first == second
    assert PUBLISHED.startswith(first)


def test_prompt_from_stdin(vivace: Vivace, stories: str) -> None:
    done = vivace(
        "generate", stories, "--prompt", "-", "--temperature", "0", "--max-tokens", "40", stdin="Once upon a time"
    )
    assert PUBLISHED.startswith(done.stdout[:40])


def test_stop_text_ends_the_answer(vivace: Vivace, stories: str) -> None:
    done = vivace("generate", stories, *GREEDY, "--stop", "Lily", "--max-tokens", "60", "--json")
    record = json.loads(done.stdout)
    assert record["text"] == ", there was a little girl named "
    assert (record["finish_reason"], record["stop_reason"]) == ("stop", "Lily")


def test_logit_bias_bans_a_token(vivace: Vivace, stories: str) -> None:
    likeliest = json.loads(vivace("generate", stories, *GREEDY, "--max-tokens", "1", "--json").stdout)["token_ids"][0]
    done = vivace("generate", stories, *GREEDY, "--max-tokens", "1", "--logit-bias", f"{likeliest}=-100", "--json")
    assert json.loads(done.stdout)["token_ids"] != [likeliest]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("MODEL",), "--prompt"),
        (("In 1905",), "no prompt ('In 1905' was read as the model)"),
        (("no/such-model/here", "--prompt", "x"), "no/such-model/here"),
        (("MODEL", "--prompt", "x", "--temperature", "-1"), "temperature"),
        (("MODEL", "--prompt", "x", "--top-p", "nan"), "top_p"),
        (("MODEL", "--prompt", "x", "--logprobs", "1"), "--json"),
        (("MODEL", "--prompt", "x", "--logit-bias", "five"), "ID=BIAS"),
        (("MODEL", "--prompt", "x", "--logit-bias", "99999=1"), "logit_bias"),
        (("MODEL", "--prompt", "x", "--kv-cache-dtype", "int3"), "kv_cache_dtype"),
        (("MODEL", "--prompt", "x", "--max-model-len", "100000"), "max_model_len"),
        (("MODEL", "--prompt", "x", "--config", "llama-3.2-1b"), "dummy"),
        (("MODEL", "--prompt", "x", "--instruction-set", "mmx"), "mmx"),
        (("MODEL", "--prompt", "word " * 1000), "512"),
    ],
)
def test_a_mistake_is_one_line_and_code_2(
    vivace: Vivace, stories: str, arguments: tuple[str, ...], said: str
) -> None:
    done = vivace("generate", *(stories if word == "MODEL" else word for word in arguments))
    assert done.code == 2
    assert done.stdout == ""
    assert said in done.stderr
    assert done.stderr.count("\n") == 1


def test_an_unknown_flag_is_code_2(vivace: Vivace) -> None:
    done = vivace("generate", "--temprature", "1")
    assert done.code == 2
    assert "--temprature" in done.stderr
