"""A request that another engine began goes on to the bit: every cut, every parameter that looks back."""

from __future__ import annotations

import json
import random
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

from vivace.core.config import EngineConfig
from vivace.core.errors import RequestError
from vivace.core.events import TokenEvent, TokenLogprobs
from vivace.core.sampling import SamplingParams
from vivace.engine.engine import Engine
from vivace.engine.loader import load_engine

SEED = 20261123
VOCABULARY = 331
SHAPE = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 128,
    "intermediate_size": 352,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 256,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "hidden_act": "silu",
    "tie_word_embeddings": False,
}
COMMON: dict[str, Any] = {"max_tokens": 14, "logprobs": 3}
PARAMS = {
    "greedy": SamplingParams(temperature=0.0, seed=1, ignore_eos=True, **COMMON),
    "sampled": SamplingParams(temperature=1.0, top_p=0.9, seed=2**64 - 3, ignore_eos=True, **COMMON),
    "penalties": SamplingParams(
        temperature=0.9, seed=3, repetition_penalty=1.3, presence_penalty=0.5, frequency_penalty=0.7, **COMMON
    ),
    "stop tokens": SamplingParams(temperature=1.5, seed=4, stop_token_ids=tuple(range(0, 331, 9)), **COMMON),
    "min_tokens": SamplingParams(
        temperature=1.5, seed=4, min_tokens=6, stop_token_ids=tuple(range(0, 331, 9)), **COMMON
    ),
    "bias": SamplingParams(temperature=1.0, seed=5, logit_bias={7: 4.0, 8: -100.0}, **COMMON),
    "continuations": SamplingParams(
        n=4, temperature=1.5, seed=6, stop_token_ids=tuple(range(0, 331, 9)), ignore_eos=True, **COMMON
    ),
    "prompt scores": SamplingParams(n=2, temperature=1.0, seed=7, prompt_logprobs=2, ignore_eos=True, **COMMON),
    "scoring only": SamplingParams(max_tokens=0, seed=8, prompt_logprobs=2),
}
Traces = dict[int, list[TokenEvent]]


@pytest.fixture
def config(tmp_path: Path) -> EngineConfig:
    shape = tmp_path / "config.json"
    shape.write_text(json.dumps(SHAPE))
    return EngineConfig(load_format="dummy", config=str(shape), max_num_seqs=8, num_kv_blocks=64, seed=7)


def prompt(length: int = 37) -> list[int]:
    chance = random.Random(SEED)
    return [chance.randrange(VOCABULARY) for _ in range(length)]


def drain(engine: Engine) -> dict[str, Traces]:
    traces: dict[str, Traces] = defaultdict(lambda: defaultdict(list))
    while engine.num_unfinished:
        for event in engine.step():
            traces[event.request_id][event.index].append(event)
    return traces


def scores(engine: Engine, request_id: str) -> list[TokenLogprobs | None] | None:
    return engine.record(request_id).prompt_logprobs


def emitted_before(traces: Traces, cut: int) -> list[list[int] | None]:
    """The journal after `cut` steps of sampling: a continuation that had its last event is None."""
    return [
        None
        if cut >= len(traces[index])
        else [event.token for event in traces[index][:cut] if event.token is not None]
        for index in sorted(traces)
    ]


@pytest.mark.parametrize("name", PARAMS)
def test_cut_anywhere_a_request_goes_on_to_the_bit(config: EngineConfig, name: str) -> None:
    first = load_engine(config).engine
    first.add("x", prompt(), PARAMS[name])
    whole = drain(first)["x"]
    for cut in range(max(len(events) for events in whole.values())):
        engine = load_engine(config).engine
        engine.add("x", prompt(), PARAMS[name], emitted=emitted_before(whole, cut))
        rest = drain(engine)["x"]
        for index, events in whole.items():
            assert rest.get(index, []) == events[cut:], f"continuation {index} cut after {cut} tokens"
        assert scores(engine, "x") == scores(first, "x")
        engine.forget("x")
        engine.scheduler.block_manager.check_integrity()
        assert engine.scheduler.block_manager.num_used == 0


def test_many_go_on_together_where_blocks_are_few(config: EngineConfig) -> None:
    """Preempted before and after, some still waiting: 12 requests on 14 blocks, cut after each of 40 steps."""
    small = EngineConfig(
        load_format="dummy", config=config.config, max_num_seqs=6, num_kv_blocks=14, max_model_len=100, seed=7
    )
    chance = random.Random(SEED)
    names = [name for name in PARAMS if name != "scoring only"]
    requests = {
        f"{number}": (prompt(chance.randint(1, 60)), PARAMS[names[number % len(names)]]) for number in range(12)
    }
    alone: dict[str, Traces] = {}
    for request_id, (tokens, params) in requests.items():
        engine = load_engine(config).engine
        engine.add(request_id, tokens, params)
        alone[request_id] = drain(engine)[request_id]
    num_preemptions = 0
    for cut in range(1, 40, 4):
        engine = load_engine(small).engine
        journal: dict[str, list[list[int] | None]] = {}
        for request_id, (tokens, params) in requests.items():
            engine.add(request_id, tokens, params)
            journal[request_id] = [[] for _ in range(params.n)]
        before: dict[str, Traces] = defaultdict(lambda: defaultdict(list))
        for _ in range(cut):
            for event in engine.step():
                before[event.request_id][event.index].append(event)
                tokens_so_far = journal[event.request_id][event.index]
                assert tokens_so_far is not None
                if event.token is not None:
                    tokens_so_far.append(event.token)
                if event.finish is not None:
                    journal[event.request_id][event.index] = None
        second = load_engine(small).engine
        for request_id, (tokens, params) in requests.items():
            if any(one is not None for one in journal[request_id]):
                second.add(request_id, tokens, params, emitted=journal[request_id])
        after = drain(second)
        num_preemptions += engine.stats.num_preemptions + second.stats.num_preemptions
        for request_id, traces in alone.items():
            for index, events in traces.items():
                assert before[request_id][index] + after[request_id][index] == events, (cut, request_id, index)
    assert num_preemptions > 0


def test_the_prompt_counts_once_over_all_engines(config: EngineConfig) -> None:
    engine = load_engine(config).engine
    engine.add("x", prompt(), PARAMS["greedy"], emitted=[[5, 6]])
    drain(engine)
    assert (engine.stats.num_prompt_tokens, engine.stats.num_generation_tokens) == (0, 12)


@pytest.mark.parametrize(
    ("emitted", "message"),
    [
        ([], "n = 2"),
        ([[1]], "n = 2"),
        ([None, None], "at least one"),
        ([[1], [VOCABULARY]], "emitted token ids"),
        ([[1], [-1]], "emitted token ids"),
        ([None, [1] * 14], "it has ended"),
    ],
)
def test_what_is_no_journal_is_refused(config: EngineConfig, emitted: list[list[int] | None], message: str) -> None:
    engine = load_engine(config).engine
    with pytest.raises(RequestError, match=message) as caught:
        engine.add("x", prompt(), PARAMS["prompt scores"], emitted=emitted)
    assert caught.value.param == "emitted"
    assert engine.num_unfinished == 0
