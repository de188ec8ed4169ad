"""Speculation changes nothing but the time: tokens, log probabilities and reasons are equal to the bit."""

from __future__ import annotations

import random
from functools import cache
from typing import Any

import pytest

from vivace.core.events import RequestOutput
from vivace.core.sampling import SamplingParams
from vivace.core.structured_outputs import StructuredOutputs
from vivace.engine.llm import LLM

SEED = 11
METHODS: dict[str, dict[str, Any]] = {
    "ngram": {"method": "ngram", "prompt_lookup_min": 2},
    "draft_model": {"method": "draft_model", "model": "embedded-draft"},
    "medusa": {"method": "medusa", "num_speculative_tokens": 12},
}
OPTIONS: dict[str, Any] = {"max_num_seqs": 8, "max_model_len": 224, "num_kv_blocks": 256}
TEXTS = [
    "The sea was calm and the ship",
    "the whale and the ship, the whale and the ship, the whale and",
    "It was a dark night. It was a dark night. It was",
    "In the morning they went down to the river and",
    "1, 2, 3, 4, 1, 2, 3, 4, 1, 2,",
    "He said",
    "Chapter 1. The sea. Chapter 2. The ship. Chapter 3.",
    "She looked at him and she looked at him and",
]
CHANGES: list[dict[str, Any]] = [
    {},
    {"max_num_batched_tokens": 9},
    {"num_kv_blocks": 8},
    {"enable_prefix_caching": False, "num_threads": 1},
    {"batching": "static", "static_batch_size": 3, "static_batch_timeout_ms": 0.0},
    {"kv_cache_dtype": "int8_per_token_head"},
    {"kv_cache_dtype": "int4_per_token_head"},
    {"kv_cache_dtype": "int4_k_per_channel"},
    {"quantization": "int8"},
    {"quantization": "f32"},
]
CHANGED_RESULTS = {"kv_cache_dtype", "quantization"}


def params(number: int) -> SamplingParams:
    """Every setting of the sampler in turn."""
    settings: list[dict[str, Any]] = [
        {"temperature": 0.0},
        {"temperature": 0.7, "top_p": 0.9, "n": 2},
        {"temperature": 0.0, "min_tokens": 20, "stop_token_ids": (260, 261, 262, 263)},
        {"temperature": 1.0, "top_k": 5, "presence_penalty": 0.5, "frequency_penalty": 0.3},
        {"temperature": 0.0, "repetition_penalty": 1.3},
        {"temperature": 0.9, "min_p": 0.05, "logit_bias": {300: 2.0, 400: -5.0}},
        {"temperature": 0.3, "stop": ("the", "and"), "min_tokens": 3},
        {"temperature": 0.0, "structured_outputs": StructuredOutputs("regex", "[a-z ]{30}")},
    ]
    return SamplingParams(max_tokens=48, seed=number, logprobs=2, **settings[number % len(settings)])


def trace(output: RequestOutput) -> list[Any]:
    return [(one.text, one.token_ids, one.logprobs, one.finish_reason, one.stop_reason) for one in output.outputs]


def run(llm: LLM) -> list[Any]:
    outputs = llm.generate(TEXTS, [params(number) for number in range(len(TEXTS))])
    llm.engine.scheduler.block_manager.check_integrity()
    assert llm.engine.scheduler.block_manager.num_used == 0
    return [trace(output) for output in outputs]


@pytest.fixture(scope="module")
def plain() -> list[Any]:
    return run(LLM(**OPTIONS))


@cache  # one for all methods
def changed(*changes: tuple[str, Any]) -> list[Any]:
    return run(LLM(**{**OPTIONS, **dict(changes)}))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("changes", CHANGES, ids=str)
def test_equals_plain_decoding(plain: list[Any], method: str, changes: dict[str, Any]) -> None:
    expected = changed(*changes.items()) if CHANGED_RESULTS & set(changes) else plain
    llm = LLM(**{**OPTIONS, **changes}, speculative_config={**METHODS[method], "adaptive": False})
    assert run(llm) == expected
    assert run(llm) == expected, "again, on a warm prefix cache"
    assert llm.engine.speculation is not None
    stats = llm.engine.speculation.stats
    assert 0 < stats.num_accepted_tokens < stats.num_draft_tokens
    assert llm.engine.stats.num_preemptions > 0 or "num_kv_blocks" not in changes


@pytest.mark.parametrize("method", METHODS)
def test_the_rule_changes_nothing(plain: list[Any], method: str) -> None:
    assert run(LLM(**OPTIONS, speculative_config=METHODS[method])) == plain


@pytest.mark.parametrize("method", METHODS)
def test_abort_in_the_middle_leaves_no_trace(method: str) -> None:
    """Requests end at random steps; the others' texts and the block manager do not notice."""
    generator = random.Random(SEED)
    print(f"seed {SEED}")
    llm = LLM(**OPTIONS, speculative_config={**METHODS[method], "adaptive": False})
    plain = LLM(**OPTIONS)
    kept = {f"kept-{number}": TEXTS[number] for number in range(3)}
    one = SamplingParams(max_tokens=48, temperature=0.0)
    expected = {name: plain.generate([text], one)[0].outputs[0].token_ids for name, text in kept.items()}
    engine = llm.engine
    for name, text in kept.items():
        engine.add(name, llm.tokenizer.encode(text), one)
    tokens: dict[str, list[int]] = {name: [] for name in kept}
    steps = 0
    while engine.num_unfinished:
        if steps % 3 == 0 and steps < 40:
            engine.add(f"victim-{steps}", llm.tokenizer.encode(generator.choice(TEXTS)), one)
        for event in engine.step():
            if event.request_id in tokens and event.token is not None:
                tokens[event.request_id].append(event.token)
        if generator.random() < 0.5:
            engine.abort(f"victim-{3 * generator.randrange(14)}")
        engine.scheduler.block_manager.check_integrity()
        steps += 1
    assert tokens == expected
    assert engine.scheduler.block_manager.num_used == 0
