"""The same tokens and the same log probabilities, to the bit, however a request is served.

The reference of every comparison is the plainest way to run: one request alone in a fresh engine.
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from vivace.core.events import RequestOutput
from vivace.core.sampling import SamplingParams
from vivace.engine.llm import LLM

SEED = 20261122
CONFIG = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 128,
    "intermediate_size": 352,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "vocab_size": 331,
    "max_position_embeddings": 256,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "hidden_act": "silu",
    "tie_word_embeddings": False,
}
GEMMA = {
    **CONFIG,
    "model_type": "gemma2",
    "architectures": ["Gemma2ForCausalLM"],
    "num_key_value_heads": 1,
    "hidden_activation": "gelu_pytorch_tanh",
    "query_pre_attn_scalar": 32,
    "attn_logit_softcapping": 50.0,
    "final_logit_softcapping": 30.0,
    "sliding_window": 24,
    "tie_word_embeddings": True,
}
VARIANTS = [
    ("llama", "f32", "auto"),
    ("llama", "bf16", "auto"),
    ("llama", "int8", "auto"),
    ("llama", "int4", "auto"),
    ("gemma2", "f32", "auto"),
    ("llama", "int4", "int8_per_token_head"),
    ("llama", "bf16", "int4_per_token_head"),
    ("llama", "int4", "int4_k_per_channel"),
    ("gemma2", "bf16", "int4_k_per_channel"),
    ("llama", "w8a8", "auto"),
    ("llama", "llm_int8", "auto"),
]


@pytest.fixture(params=VARIANTS, ids=lambda variant: "-".join(variant))
def options(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, Any]:
    family, quantization, kv_cache_dtype = request.param
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"llama": CONFIG, "gemma2": GEMMA}[family]))
    return {
        "load_format": "dummy",
        "config": str(config),
        "quantization": quantization,
        "kv_cache_dtype": kv_cache_dtype,
        "max_num_seqs": 8,
        "num_kv_blocks": 256,
        "seed": 7,
    }


def prompts(count: int, *, low: int = 1, high: int = 90) -> list[list[int]]:
    generator = random.Random(SEED)
    return [[generator.randrange(331) for _ in range(generator.randint(low, high))] for _ in range(count)]


def params(number: int, max_tokens: int = 12) -> SamplingParams:
    """Greedy, sampled and penalised requests in turn; each asks for log probabilities."""
    common: dict[str, Any] = {"max_tokens": max_tokens, "logprobs": 5, "ignore_eos": True}
    if number % 3 == 0:
        return SamplingParams(temperature=0.0, **common)
    if number % 3 == 1:
        return SamplingParams(temperature=0.9, top_p=0.9, top_k=40, seed=number, **common)
    return SamplingParams(temperature=1.1, min_p=0.02, repetition_penalty=1.2, seed=number, **common)


def trace(output: RequestOutput) -> list[tuple[list[int], Any]]:
    return [(one.token_ids, one.logprobs) for one in output.outputs]


def alone(options: dict[str, Any], requests: list[list[int]], max_tokens: int = 12, **changes: Any) -> list[Any]:
    llm = LLM(**{**options, "enable_prefix_caching": False, **changes})
    return [trace(llm.generate([prompt], params(i, max_tokens))[0]) for i, prompt in enumerate(requests)]


def together(llm: LLM, requests: list[list[int]], max_tokens: int = 12) -> list[Any]:
    outputs = llm.generate(requests, [params(i, max_tokens) for i in range(len(requests))])
    llm.engine.scheduler.block_manager.check_integrity()
    return [trace(output) for output in outputs]


def test_batched_equals_alone(options: dict[str, Any]) -> None:
    requests = prompts(12)
    assert together(LLM(**options), requests) == alone(options, requests)


def test_static_batching_equals_alone(options: dict[str, Any]) -> None:
    requests = prompts(7)
    llm = LLM(**options, batching="static", static_batch_size=3, static_batch_timeout_ms=0.0)
    assert together(llm, requests) == alone(options, requests)


def test_every_chunk_size_equals_whole_prefill(options: dict[str, Any]) -> None:
    requests = prompts(2, low=30, high=34)
    expected = alone(options, requests)
    for budget in range(1, 35):
        llm = LLM(**{**options, "max_num_seqs": min(8, budget)}, max_num_batched_tokens=budget)
        assert together(llm, requests) == expected, f"budget {budget}"


def test_prefix_hits_equal_computing(options: dict[str, Any]) -> None:
    shared = prompts(1, low=70, high=70)[0]
    requests = [shared + tail for tail in prompts(6, high=20)] + [shared, shared]
    llm = LLM(**options)
    expected = alone(options, requests)
    assert together(llm, requests) == expected
    outputs = llm.generate(requests, [params(i) for i in range(len(requests))])
    assert [trace(output) for output in outputs] == expected
    assert all(output.num_cached_tokens >= 64 for output in outputs)


@pytest.mark.parametrize("share", [0.1, 0.2, 0.4])
def test_preempted_equals_alone(options: dict[str, Any], share: float) -> None:
    """The KV pool holds a share of what all requests need at once; at 10% it holds little more than the longest."""
    requests = prompts(10, low=10, high=40)
    need = sum(-(-(len(prompt) + 60) // 16) for prompt in requests)
    llm = LLM(**{**options, "num_kv_blocks": max(7, int(need * share))}, max_model_len=112)
    assert together(llm, requests, 60) == alone(options, requests, 60, max_model_len=112)
    assert llm.engine.stats.num_preemptions > 0


def test_threads_do_not_change_results(options: dict[str, Any]) -> None:
    requests = prompts(6)
    assert together(LLM(**options, num_threads=1), requests) == together(LLM(**options, num_threads=2), requests)


def test_naive_loop_equals_cached_decoding(options: dict[str, Any]) -> None:
    prompt = prompts(1, low=20, high=20)[0]
    greedy = SamplingParams(temperature=0.0, max_tokens=12, logprobs=5, ignore_eos=True)
    llm = LLM(**{**options, "enable_prefix_caching": False})
    fast = llm.generate([prompt], greedy)[0].outputs[0]
    one = SamplingParams(temperature=0.0, max_tokens=1, logprobs=5, ignore_eos=True)
    tokens, logprobs = list(prompt), []
    for _ in range(12):
        step = llm.generate([tokens], one)[0].outputs[0]
        tokens += step.token_ids
        logprobs += step.logprobs or []
    assert (fast.token_ids, fast.logprobs) == (tokens[20:], logprobs)


def test_aborting_neighbours_changes_nothing(options: dict[str, Any]) -> None:
    requests = prompts(6)
    expected = alone(options, requests[:1])[0]
    llm = LLM(**options)
    neighbours = [llm.submit(prompt, params(i)) for i, prompt in enumerate(requests[1:], 1)]
    for _, neighbour in zip(llm.stream(requests[0], params(0)), neighbours, strict=False):
        llm.engine.abort(neighbour)
    again = llm.generate([requests[0]], params(0))[0]
    assert trace(again) == expected
    assert llm.engine.num_unfinished == 0


def test_continuations_equal_single_requests(options: dict[str, Any]) -> None:
    """n continuations share the prompt's blocks and copy on write; each equals the same index drawn elsewhere."""
    prompt = prompts(1, low=37, high=37)[0]
    several = SamplingParams(n=4, temperature=1.0, seed=3, max_tokens=20, ignore_eos=True, logprobs=3)
    llm = LLM(**options)
    crowded = LLM(**{**options, "num_kv_blocks": 9}, max_model_len=64)
    expected = trace(llm.generate([prompt], several)[0])
    assert len({tuple(tokens) for tokens, _ in expected}) == 4
    assert trace(crowded.generate([prompt], several)[0]) == expected
    assert (
        trace(LLM(**options).generate([prompt, *prompts(3)], [several, *[params(i) for i in range(3)]])[0])
        == expected
    )
