"""Constrained requests among others: the same tokens and log probabilities, to the bit, however they are served."""

from __future__ import annotations

from typing import Any

import pytest

from vivace.core.events import RequestOutput
from vivace.core.sampling import SamplingParams
from vivace.core.structured_outputs import StructuredOutputs
from vivace.engine.llm import LLM
from vivace.resources import embedded_model_path

OPTIONS: dict[str, Any] = {"max_num_seqs": 8, "max_model_len": 160, "enable_prefix_caching": False}
CONSTRAINTS = (
    StructuredOutputs.json_schema(
        {
            "type": "object",
            "properties": {"a": {"type": "string", "maxLength": 20}, "b": {"type": "integer"}},
            "required": ["a", "b"],
            "additionalProperties": False,
        }
    ),
    None,
    StructuredOutputs("regex", "[a-z ]{40}"),
    StructuredOutputs.choice(["the whale", "the ship", "the sea and the sky"]),
    None,
    StructuredOutputs("json_object"),
)
PROMPTS = [
    f"Chapter {number}. The {noun} " * (number + 1) for number, noun in enumerate(["sea", "ship", "whale"] * 2)
]


def params(number: int) -> SamplingParams:
    """Greedy, sampled, penalised, and several continuations, in turn."""
    common: dict[str, Any] = {"max_tokens": 40, "logprobs": 3, "structured_outputs": CONSTRAINTS[number]}
    varied: list[dict[str, Any]] = [
        {"temperature": 0.0},
        {"temperature": 0.9, "top_p": 0.9, "seed": number, "n": 2},
        {"temperature": 1.1, "min_p": 0.02, "repetition_penalty": 1.2, "seed": number},
    ]
    return SamplingParams(**common, **varied[number % 3])


def trace(output: RequestOutput) -> list[Any]:
    return [(one.token_ids, one.logprobs, one.finish_reason) for one in output.outputs]


@pytest.fixture(scope="module")
def alone() -> list[Any]:
    llm = LLM(**OPTIONS)
    return [trace(llm.generate([prompt], params(number))[0]) for number, prompt in enumerate(PROMPTS)]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"num_threads": 1},
        {"max_num_batched_tokens": 13, "max_num_seqs": 8},
        {"num_kv_blocks": 11},
        {"batching": "static", "static_batch_size": 3, "static_batch_timeout_ms": 0.0},
        {"enable_prefix_caching": True},
    ],
    ids=["batched", "one thread", "chunked", "preempted", "static", "prefix cache"],
)
def test_together_equals_alone(alone: list[Any], changes: dict[str, Any]) -> None:
    llm = LLM(**{**OPTIONS, **changes})
    outputs = llm.generate(PROMPTS, [params(number) for number in range(len(PROMPTS))])
    assert [trace(output) for output in outputs] == alone
    assert llm.engine.stats.num_preemptions > 0 or "num_kv_blocks" not in changes
    llm.engine.scheduler.block_manager.check_integrity()


@pytest.mark.parametrize(
    "method",
    [
        {"method": "ngram", "prompt_lookup_min": 1, "num_speculative_tokens": 4},
        {"method": "draft_model", "model": "embedded-draft"},
        {"method": "draft_model", "model": str(embedded_model_path()), "num_speculative_tokens": 3},
    ],
    ids=["ngram", "draft model", "itself"],
)
@pytest.mark.parametrize("adaptive", [False, True])
def test_guesses_under_a_constraint_change_nothing(alone: list[Any], method: dict[str, Any], adaptive: bool) -> None:
    llm = LLM(**OPTIONS, speculative_config={**method, "adaptive": adaptive})
    constrained = [number for number, constraint in enumerate(CONSTRAINTS) if constraint is not None]
    outputs = llm.generate([PROMPTS[number] for number in constrained], [params(number) for number in constrained])
    assert [trace(output) for output in outputs] == [alone[number] for number in constrained]
    assert llm.engine.speculation is not None
    stats = llm.engine.speculation.stats
    assert adaptive or 0 < stats.num_accepted_tokens < stats.num_draft_tokens
    llm.engine.scheduler.block_manager.check_integrity()
