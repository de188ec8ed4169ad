"""The equivalence suite on the torch backend, on torch's CPU device: however a request is served, the same tokens.

There products are summed in float64 and rounded once (`vivace.backends.cuda.precision`), which hides torch's order of
sums but for one rounding in some 10^8: tokens must be equal, log probabilities equal to 1e-4. On a GPU, where cuBLAS
chooses its sums by the number of rows, `benches/gpu.py` is where to look. No GPU is needed here.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_equivalence import CONFIG, GEMMA, alone, params, prompts, together
from test_speculation_equivalence import METHODS, OPTIONS, TEXTS

from vivace.core.sampling import SamplingParams
from vivace.core.structured_outputs import StructuredOutputs
from vivace.engine.llm import LLM

DEVICE = {"backend": "cuda", "device": "cpu"}
VARIANTS = [
    ("llama", "f32", "auto"),
    ("llama", "bf16", "int8_per_token_head"),
    ("gemma2", "int4", "int4_k_per_channel"),
    ("llama", "int8", "int4_per_token_head"),
    ("gemma2", "w8a8", "f16"),
    ("llama", "llm_int8", "fp8_e4m3"),
    ("llama", "fp8", "bf16"),
]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(params=VARIANTS, ids=lambda variant: "-".join(variant))
def options(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, Any]:
    family, quantization, kv_cache_dtype = request.param
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"llama": CONFIG, "gemma2": GEMMA}[family]))
    return DEVICE | {
        "load_format": "dummy",
        "config": str(config),
        "quantization": quantization,
        "kv_cache_dtype": kv_cache_dtype,
        "max_num_seqs": 8,
        "num_kv_blocks": 256,
        "seed": 7,
    }


def check_same(actual: list[Any], expected: list[Any]) -> None:
    """Tokens, and the log probabilities of the chosen ones."""
    for one, other in zip(actual, expected, strict=True):
        for (tokens, logprobs), (true_tokens, true_logprobs) in zip(one, other, strict=True):
            assert tokens == true_tokens
            chosen = [[entry.logprob for entry in entries] for entries in (logprobs, true_logprobs)]
            np.testing.assert_allclose(chosen[0], chosen[1], rtol=0, atol=1e-4)


def test_served_together_in_every_way_equals_alone(options: dict[str, Any]) -> None:
    """Batched, static, in small chunks, and preempted."""
    requests = prompts(6, low=10, high=40)
    expected = alone(options, requests, 10, max_model_len=64)
    ways: list[dict[str, Any]] = [
        {},
        {"batching": "static", "static_batch_size": 3, "static_batch_timeout_ms": 0.0},
        {"max_num_batched_tokens": 9},
        {"num_kv_blocks": 6},
    ]
    for changes in ways:
        llm = LLM(**{**options, "max_model_len": 64, **changes})
        check_same(together(llm, requests, 10), expected)
        assert llm.engine.stats.num_preemptions > 0 or "num_kv_blocks" not in changes


def test_prefix_hits_equal_computing(options: dict[str, Any]) -> None:
    shared = prompts(1, low=40, high=40)[0]
    requests = [shared + tail for tail in prompts(3, high=20)] + [shared]
    llm = LLM(**options)
    expected = alone(options, requests, 6)
    check_same(together(llm, requests, 6), expected)
    outputs = llm.generate(requests, [params(i, 6) for i in range(len(requests))])
    assert all(output.num_cached_tokens >= 32 for output in outputs)
    check_same([[(one.token_ids, one.logprobs) for one in output.outputs] for output in outputs], expected)


def test_greedy_tokens_are_those_of_the_reference_backend(options: dict[str, Any]) -> None:
    """Where they part, the reference's two best must be a tie: weights and caches are the same numbers, but codes of
    activations or keys turn a last bit into another level."""
    coded = options["quantization"] in ("w8a8", "llm_int8", "fp8") or options["kv_cache_dtype"].startswith("int")
    margin = 0.05 if coded else 1e-4
    requests = prompts(3, low=5, high=30)
    greedy = SamplingParams(temperature=0.0, max_tokens=10, logprobs=2, ignore_eos=True)
    expected = LLM(**{**options, "backend": "reference"}).generate(requests, greedy)
    for one, other in zip(LLM(**options).generate(requests, greedy), expected, strict=True):
        mine, true = one.outputs[0], other.outputs[0]
        parted = next(
            (i for i, (a, b) in enumerate(zip(mine.token_ids, true.token_ids, strict=True)) if a != b), None
        )
        if parted is not None:
            assert true.logprobs is not None
            best, second = true.logprobs[parted].top_logprobs[:2]
            assert best - second < margin


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kv_cache_dtype", ["bf16", "int4_k_per_channel"])
def test_guesses_change_nothing(method: str, kv_cache_dtype: str) -> None:
    options = OPTIONS | DEVICE | {"kv_cache_dtype": kv_cache_dtype}
    sampling = [
        SamplingParams(max_tokens=20, temperature=0.8 * (number % 2), seed=number, logprobs=1) for number in range(4)
    ]
    plain = LLM(**options).generate(TEXTS[1:5], sampling)
    llm = LLM(**options, speculative_config=METHODS[method] | {"adaptive": False})
    guessed = llm.generate(TEXTS[1:5], sampling)
    assert [one.outputs[0].token_ids for one in guessed] == [one.outputs[0].token_ids for one in plain]
    assert llm.engine.speculation is not None


def test_embeddings_prompt_log_probabilities_and_grammars() -> None:
    """What leaves the device: hidden states, raw logits, scores of a prompt; and masks that go there."""
    texts = ["the whale and the ship", "He said"]
    asked = [
        SamplingParams(max_tokens=12, temperature=0.0, prompt_logprobs=2),
        SamplingParams(
            max_tokens=12, temperature=0.7, seed=1, structured_outputs=StructuredOutputs("regex", "[a-z ]{8}")
        ),
    ]
    results = []
    for backend in (DEVICE, {"backend": "reference"}):
        llm = LLM(max_model_len=64, num_kv_blocks=32, quantization="f32", **backend)
        vectors = [one.embedding for one in llm.embed(texts)]
        outputs = llm.generate(texts, asked)
        results.append((vectors, outputs))
    (vectors, outputs), (true_vectors, true_outputs) = results
    np.testing.assert_allclose(vectors, true_vectors, rtol=0, atol=1e-5)
    assert [one.outputs[0].text for one in outputs] == [one.outputs[0].text for one in true_outputs]
    scores, true_scores = (
        [entry.logprob for entry in one[0].prompt_logprobs or [] if entry is not None]
        for one in (outputs, true_outputs)
    )
    assert len(scores) > 2
    np.testing.assert_allclose(scores, true_scores, rtol=0, atol=1e-4)
