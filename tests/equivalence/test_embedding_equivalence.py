"""The same vector, to the bit, however a prompt is served. The reference is one prompt alone in a fresh engine."""

from __future__ import annotations

import json
import random
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

from vivace.core.sampling import SamplingParams
from vivace.core.sequence import Pooling
from vivace.engine.engine import Engine
from vivace.engine.llm import LLM
from vivace.engine.pooling import POOLING_PARAMS

SEED = 20261122
VOCAB_SIZE = 331
CONFIG = {
    "model_type": "gemma2",
    "architectures": ["Gemma2ForCausalLM"],
    "hidden_size": 128,
    "intermediate_size": 352,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 1,
    "head_dim": 32,
    "vocab_size": VOCAB_SIZE,
    "max_position_embeddings": 256,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "hidden_activation": "gelu_pytorch_tanh",
    "query_pre_attn_scalar": 32,
    "attn_logit_softcapping": 50.0,
    "final_logit_softcapping": 30.0,
    "sliding_window": 24,
    "tie_word_embeddings": True,
}
GREEDY = SamplingParams(temperature=0.0, max_tokens=40, ignore_eos=True)


@pytest.fixture(params=["f32", "int4"])
def options(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, Any]:
    config = tmp_path / "config.json"
    config.write_text(json.dumps(CONFIG))
    return {
        "load_format": "dummy",
        "config": str(config),
        "quantization": request.param,
        "max_num_seqs": 8,
        "num_kv_blocks": 256,
        "seed": 7,
    }


@pytest.fixture(params=["mean", "last"])
def pooling(request: pytest.FixtureRequest) -> Pooling:
    return request.param  # type: ignore[no-any-return]


def prompts(count: int, *, low: int = 1, high: int = 90) -> list[list[int]]:
    generator = random.Random(SEED)
    return [[generator.randrange(VOCAB_SIZE) for _ in range(generator.randint(low, high))] for _ in range(count)]


def vectors(llm: LLM, requests: list[list[int]], pooling: Pooling) -> list[list[float]]:
    outputs = llm.embed(requests, pooling=pooling, normalize=False)
    llm.engine.scheduler.block_manager.check_integrity()
    assert llm.engine.scheduler.block_manager.num_used == 0
    return [output.embedding for output in outputs]


def alone(options: dict[str, Any], requests: list[list[int]], pooling: Pooling) -> list[list[float]]:
    llm = LLM(**{**options, "enable_prefix_caching": False})
    return [vectors(llm, [prompt], pooling)[0] for prompt in requests]


def add(engine: Engine, generated: list[list[int]], embedded: list[list[int]], pooling: Pooling) -> list[str]:
    """Queue streams and embeddings; the ids of the embeddings."""
    for number, prompt in enumerate(generated):
        engine.add(f"stream {number}", prompt, GREEDY)
    for number, prompt in enumerate(embedded):
        engine.add(str(number), prompt, POOLING_PARAMS, pooling=pooling)
    return [str(number) for number in range(len(embedded))]


def test_batched_equals_alone(options: dict[str, Any], pooling: Pooling) -> None:
    requests = prompts(12)
    expected = alone(options, requests, pooling)
    assert len({tuple(vector) for vector in expected}) == len(requests)
    assert vectors(LLM(**options), requests, pooling) == expected
    static = LLM(**options, batching="static", static_batch_size=3, static_batch_timeout_ms=0.0)
    assert vectors(static, requests, pooling) == expected


def test_every_chunk_size_equals_whole_prefill(options: dict[str, Any], pooling: Pooling) -> None:
    requests = prompts(2, low=12, high=20)
    expected = alone(options, requests, pooling)
    for budget in range(1, 21):
        llm = LLM(**{**options, "max_num_seqs": min(8, budget)}, max_num_batched_tokens=budget)
        assert vectors(llm, requests, pooling) == expected, f"budget {budget}"


def test_cached_prefixes_change_nothing(options: dict[str, Any], pooling: Pooling) -> None:
    """The last token's state may rest on cached keys; a mean needs the state of every token."""
    shared = prompts(1, low=70, high=70)[0]
    requests = [shared + tail for tail in prompts(6, high=20)] + [shared, shared]
    expected = alone(options, requests, pooling)
    llm = LLM(**options)
    assert vectors(llm, requests, pooling) == expected
    again = llm.embed(requests, pooling=pooling, normalize=False)
    assert [output.embedding for output in again] == expected
    assert all((output.num_cached_tokens >= 64) is (pooling == "last") for output in again)


def test_generation_uses_blocks_that_an_embedding_left(options: dict[str, Any], pooling: Pooling) -> None:
    prompt = prompts(1, low=70, high=70)[0]
    expected = LLM(**options).generate([prompt], GREEDY)[0].outputs
    llm = LLM(**options)
    vectors(llm, [prompt], pooling)
    output = llm.generate([prompt], GREEDY)[0]
    assert output.num_cached_tokens == 64
    assert output.outputs == expected


@pytest.mark.parametrize("budget", [16, 512])
def test_embeddings_and_streams_share_steps(options: dict[str, Any], pooling: Pooling, budget: int) -> None:
    requests = prompts(10)
    embedded, generated = requests[::2], requests[1::2]
    expected = alone(options, embedded, pooling)
    texts = [output.outputs[0].token_ids for output in LLM(**options).generate(generated, GREEDY)]
    engine = LLM(**options, max_num_batched_tokens=budget).engine
    ids = add(engine, generated, embedded, pooling)
    tokens, num_mixed = defaultdict(list), 0
    while engine.num_unfinished:
        num_computed = engine.stats.num_computed_tokens
        new = [event for event in engine.step() if event.token is not None]
        num_mixed += 0 < len(new) < engine.stats.num_computed_tokens - num_computed
        for event in new:
            tokens[event.request_id].append(event.token)
    assert num_mixed > 0
    assert [engine.record(request_id).embedding for request_id in ids] == expected
    assert [tokens[f"stream {number}"] for number in range(len(generated))] == texts


def test_preempted_equals_alone(options: dict[str, Any], pooling: Pooling) -> None:
    """Streams that grow take the blocks of long prompts that are embedded in small chunks behind them."""
    requests = prompts(4, low=60, high=80)
    streams = prompts(6, low=4, high=8)
    expected = alone(options, requests, pooling)
    engine = LLM(**{**options, "num_kv_blocks": 14}, max_model_len=100, max_num_batched_tokens=9).engine
    ids = add(engine, streams, requests, pooling)
    while engine.num_unfinished:
        engine.step()
    assert sum(engine.record(request_id).sequences[0].num_preemptions for request_id in ids) > 0
    assert [engine.record(request_id).embedding for request_id in ids] == expected
    assert engine.stats.num_generation_tokens == len(streams) * GREEDY.max_tokens


def test_aborted_embedding_leaves_its_neighbours_alone(options: dict[str, Any], pooling: Pooling) -> None:
    requests = prompts(3, low=60, high=80)
    expected = alone(options, requests, pooling)
    llm = LLM(**options, max_num_batched_tokens=16)
    ids = [llm.submit(prompt, POOLING_PARAMS, pooling=pooling) for prompt in requests]
    llm.engine.step()
    llm.engine.abort(ids[0])
    while llm.engine.num_unfinished:
        llm.engine.step()
    assert llm.engine.record(ids[0]).embedding is None
    assert [llm.engine.record(request_id).embedding for request_id in ids[1:]] == expected[1:]
    assert llm.engine.scheduler.block_manager.num_used == 0
