"""Steps that overlap with the host: launched before the last one's tokens are read, and without a trace of rows that
turn out to be too many. On a fake device (`asynchronous_backend`) and on torch's CPU device."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from asynchronous_backend import AsynchronousReference

from vivace.core.config import Choice
from vivace.core.errors import EngineError
from vivace.core.sampling import SamplingParams
from vivace.engine import loader
from vivace.engine.engine import Engine
from vivace.engine.llm import LLM
from vivace.ops.backend import AsynchronousBackend
from vivace.speculate.rule import Choice as LengthChoice

SHAPE = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "vocab_size": 67,
    "max_position_embeddings": 128,
    "rms_norm_eps": 1e-5,
    "hidden_act": "silu",
    "tie_word_embeddings": False,
}
OPTIONS: dict[str, Any] = {
    "load_format": "dummy",
    "quantization": "f32",
    "seed": 3,
    "max_model_len": 96,
    "num_kv_blocks": 64,
    "max_num_seqs": 6,
}
WAYS: list[dict[str, Any]] = [
    {},
    {"batching": "static", "static_batch_size": 3, "static_batch_timeout_ms": 0.0},
    {"max_num_batched_tokens": 7},
    {"num_kv_blocks": 8},
    {"block_size": 4, "num_kv_blocks": 48},
]
Make = Callable[..., LLM]


@dataclass
class Text:
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float | None] = field(default_factory=list)
    finish: str | None = None


@pytest.fixture(params=["fake", "torch"])
def make(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Make]:
    """Engines over an asynchronous backend."""
    config = tmp_path / "config.json"
    config.write_text(json.dumps(SHAPE))
    options = OPTIONS | {"config": str(config)}
    if request.param == "torch":
        torch = pytest.importorskip("torch", reason="the CUDA backend needs torch")
        before = torch.get_num_threads()
        torch.set_num_threads(1)
        yield lambda **changes: LLM(**{**options, "backend": "cuda", "device": "cpu", **changes})
        torch.set_num_threads(before)
        return
    monkeypatch.setattr(
        loader, "make_backend", lambda _: (AsynchronousReference(), Choice("device", "cpu", "a test"))
    )
    yield lambda **changes: LLM(**{**options, **changes})


def requests_of(seed: int, count: int = 8) -> dict[str, tuple[list[int], SamplingParams]]:
    """Of every kind, many of which stop early; some share a beginning."""
    generator = random.Random(seed)
    shared = [generator.randrange(67) for _ in range(34)]
    requests = {}
    for number in range(count):
        own = [generator.randrange(67) for _ in range(generator.randint(1, 30))]
        prompt = shared + own[:8] if generator.random() < 0.4 else own
        params = SamplingParams(
            n=generator.choice([1, 1, 1, 3]),
            max_tokens=generator.choice([1, 2, 9, 40]),
            min_tokens=generator.choice([0, 1]),
            temperature=generator.choice([0.0, 0.9, 1.3]),
            top_p=generator.choice([1.0, 0.9]),
            top_k=generator.choice([0, 20]),
            repetition_penalty=generator.choice([1.0, 1.3]),
            frequency_penalty=generator.choice([0.0, 0.5]),
            stop_token_ids=tuple(generator.sample(range(67), 4)),
            logprobs=generator.choice([None, 2]),
            prompt_logprobs=generator.choice([None, None, 1]),
            seed=number,
        )
        requests[str(number)] = (prompt, params)
    return requests


def run(engine: Engine, requests: dict[str, tuple[list[int], SamplingParams]]) -> dict[tuple[str, int], Text]:
    """All at once, until everything has ended."""
    for name, (prompt, params) in requests.items():
        engine.add(name, prompt, params)
    texts: dict[tuple[str, int], Text] = {}
    while engine.num_unfinished:
        collect(engine, texts)
    return texts


def collect(engine: Engine, texts: dict[tuple[str, int], Text]) -> None:
    for event in engine.step():
        text = texts.setdefault((event.request_id, event.index), Text())
        assert text.finish is None
        if event.token is not None:
            text.tokens.append(event.token)
            text.logprobs.append(None if event.logprobs is None else event.logprobs.logprob)
        text.finish = event.finish


def check_equal(actual: Text, expected: Text) -> None:
    assert actual.tokens == expected.tokens
    assert actual.finish == expected.finish
    np.testing.assert_allclose(
        np.array(actual.logprobs, float), np.array(expected.logprobs, float), rtol=0, atol=1e-4
    )


def check_run(
    engine: Engine, requests: dict[str, tuple[list[int], SamplingParams]], expected: dict[tuple[str, int], Text]
) -> None:
    """All texts are as expected, and no block is left in use."""
    texts = run(engine, requests)
    assert texts.keys() == expected.keys()
    for key, text in texts.items():
        check_equal(text, expected[key])
    manager = engine.scheduler.block_manager
    manager.check_integrity()
    assert manager.num_used == 0


def alone(make: Make, requests: dict[str, tuple[list[int], SamplingParams]]) -> dict[tuple[str, int], Text]:
    """Each by itself, by plain steps."""
    llm = make(overlap_steps=False, enable_prefix_caching=False)
    return {key: text for name, one in requests.items() for key, text in run(llm.engine, {name: one}).items()}


def test_the_next_step_is_launched_before_the_last_one_is_read(make: Make) -> None:
    llm = make()
    backend = llm.loaded.backend
    assert isinstance(backend, AsynchronousBackend)
    if not isinstance(backend, AsynchronousReference):
        pytest.skip("torch's CPU device does not tell")
    run(llm.engine, {"a": ([1, 2, 3], SamplingParams(max_tokens=4, ignore_eos=True))})
    expected = [("run", 1), ("run", 2), ("read", 1), ("run", 3), ("read", 2), ("run", 4), ("read", 3), ("read", 4)]
    assert backend.log == expected


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_texts_are_those_of_plain_steps(make: Make, way: dict[str, Any]) -> None:
    requests = requests_of(20261122)
    expected = alone(make, requests)
    llm = make(**way)
    for _ in range(2):  # the second time from cached prefixes
        check_run(llm.engine, requests, expected)
        for name in requests:
            llm.engine.forget(name)
    assert llm.engine.stats.num_preemptions > 0 or way.get("num_kv_blocks") != 8


@pytest.mark.parametrize("penalty", [1.0, 1.4])
def test_rows_too_many_leave_no_trace(make: Make, penalty: float) -> None:
    """A request that stops by a token: counters and cached blocks are those of plain steps."""
    common = {"max_tokens": 30, "temperature": 1.2, "seed": 5, "repetition_penalty": penalty}
    prompt = list(range(1, 30))
    tokens = run(make(overlap_steps=False).engine, {"a": (prompt, SamplingParams(**common))})["a", 0].tokens
    place = max(place for place in range(20) if tokens[place] not in tokens[:place])
    assert place > 4
    stopped = SamplingParams(**common, stop_token_ids=(tokens[place],))
    seen = []
    for overlap_steps in (False, True):
        engine = make(overlap_steps=overlap_steps, block_size=4).engine
        for name in ("a", "b"):
            assert run(engine, {name: (prompt, stopped)})[name, 0].tokens == tokens[: place + 1]
        manager, account = engine.scheduler.block_manager, engine.account("a")
        assert account is not None
        seen.append((engine.stats, manager.num_cached, manager.num_prefix_hits, account.num_steps, account.num_rows))
    assert seen[0] == seen[1]


@pytest.mark.parametrize("seed", range(4))
def test_aborts_and_stops_at_any_moment(make: Make, seed: int) -> None:
    print(f"seed {seed}")
    generator = random.Random(seed)
    requests = requests_of(seed, 10)
    expected = alone(make, requests)
    engine = make(num_kv_blocks=12, block_size=8).engine
    waiting, texts, ended = list(requests), dict[tuple[str, int], Text](), set[str]()
    while waiting or engine.num_unfinished:
        if waiting and generator.random() < 0.5:
            name = waiting.pop()
            engine.add(name, *requests[name])
        if generator.random() < 0.15:
            ended.add(name := generator.choice(list(requests)))
            end(engine, name, by_stop=generator.random() < 0.5)
        collect(engine, texts)
    manager = engine.scheduler.block_manager
    manager.check_integrity()
    assert manager.num_used == 0
    for key, text in texts.items():
        if key[0] not in ended:
            check_equal(text, expected[key])
        assert text.tokens == expected[key].tokens[: len(text.tokens)]
        assert text.finish is not None


def end(engine: Engine, name: str, *, by_stop: bool) -> None:
    if by_stop:
        engine.stop(name, 0, "a stop string")
    else:
        engine.abort(name)


def test_what_leaves_the_device_at_once_and_requests_of_every_kind_run_together(make: Make) -> None:
    """Embeddings, raw logits and scores of prompts beside texts."""
    results = []
    for overlap_steps in (False, True):
        llm = make(overlap_steps=overlap_steps)
        vectors: list[list[float] | None] = []
        texts: dict[tuple[str, int], Text] = {}
        llm.engine.add("text", [5, 6, 7], SamplingParams(max_tokens=12, temperature=0.0, ignore_eos=True))
        llm.engine.add("pooled", list(range(20)), SamplingParams(max_tokens=0), pooling="mean")
        llm.engine.add("scored", list(range(9)), SamplingParams(max_tokens=3, prompt_logprobs=1, seed=1))
        for _ in range(3):
            collect(llm.engine, texts)
        llm.engine.add("late", list(range(40)), SamplingParams(max_tokens=0), pooling="last")
        while llm.engine.num_unfinished:
            collect(llm.engine, texts)
        vectors = [llm.engine.record(name).embedding for name in ("pooled", "late")]
        scores = llm.engine.record("scored").prompt_logprobs or []
        logits = [chunk.rows_SV.copy() for chunk in llm.logits([[1, 2, 3, 4, 5]], [1])]
        results.append((texts, vectors, [entry.logprob for entry in scores if entry is not None], logits))
    plain, overlapped = results
    assert {key: text.tokens for key, text in plain[0].items()} == {
        key: text.tokens for key, text in overlapped[0].items()
    }
    for one, other in zip(plain[1:], overlapped[1:], strict=True):
        np.testing.assert_allclose(
            np.concatenate([np.ravel(part) for part in one]),
            np.concatenate([np.ravel(part) for part in other]),
            rtol=0,
            atol=1e-5,
        )


def launches(log: list[tuple[str, int]]) -> list[bool]:
    """Of each step but the last: whether the next one was launched before its tokens were read."""
    at = {entry: place for place, entry in enumerate(log)}
    numbers = sorted(number for kind, number in log if kind == "read")
    return [at["run", number + 1] < at["read", number] for number in numbers if ("run", number + 1) in at]


class Countdown:
    """A constraint that allows any token but one, and looks at what it is told."""

    is_complete = False
    failure = None

    def __init__(self, told: list[int]) -> None:
        self.told = told

    def allowed_tokens(self) -> bytes:
        return (0xFFFFFFFF & ~(1 << (self.told[-1] % 32 if self.told else 0))).to_bytes(4, "little") + b"\xff" * 8

    def accept(self, token: int) -> None:
        assert token >= 0
        self.told.append(token)


class CompiledCountdown:
    def __init__(self) -> None:
        self.begun: list[Countdown] = []

    def begin(self) -> Countdown:
        self.begun.append(Countdown([]))
        return self.begun[-1]


def add_constrained(engine: Engine, name: str, prompt: list[int], params: SamplingParams) -> CompiledCountdown:
    """As if its constraint had been compiled at once."""
    engine.add(name, prompt, params)
    compiled = CompiledCountdown()
    record: Any = engine.record(name)
    record.constraint = compiled
    engine._num_constrained += 1
    return compiled


def test_steps_overlap_beside_a_constraint_that_is_not_in_them(make: Make) -> None:
    """While its long prompt is computed in chunks, and once it has ended; not while its tokens are drawn."""
    free = SamplingParams(max_tokens=30, temperature=1.1, seed=4, ignore_eos=True)
    bound = SamplingParams(max_tokens=6, temperature=1.0, seed=9, ignore_eos=True)
    results = []
    for overlap_steps in (False, True):
        llm = make(overlap_steps=overlap_steps, max_num_batched_tokens=8)
        texts: dict[tuple[str, int], Text] = {}
        llm.engine.add("free", [1, 2, 3], free)
        compiled = add_constrained(llm.engine, "bound", list(range(40)), bound)
        while llm.engine.num_unfinished:
            collect(llm.engine, texts)
        (constraint,) = compiled.begun
        assert constraint.told == texts["bound", 0].tokens
        assert all(two != one % 32 for one, two in pairwise(constraint.told))
        results.append({key: text.tokens for key, text in texts.items()})
        backend = llm.loaded.backend
        if overlap_steps and isinstance(backend, AsynchronousReference):
            ahead = launches(backend.log)
            assert ahead.count(False) == len(constraint.told)
            first = ahead.index(False)
            assert first > 4
            assert not any(ahead[first : first + len(constraint.told)])
            assert all(ahead[first + len(constraint.told) :])
    assert results[0] == results[1]


EMBEDDED: dict[str, Any] = {"config": None, "load_format": "auto"}
GUESSING: list[dict[str, Any]] = [
    {"speculative_config": {"method": "ngram", "num_speculative_tokens": 3, "prompt_lookup_min": 1}},
    EMBEDDED | {"speculative_config": {"method": "draft_model", "model": "embedded-draft"}},
    EMBEDDED | {"speculative_config": {"method": "medusa"}},
]


@pytest.mark.parametrize("way", GUESSING, ids=lambda way: way["speculative_config"]["method"])
def test_steps_overlap_while_guesses_rest(make: Make, way: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Rests of any length, at any moment: the texts are those without guesses."""
    llm = make(**way, num_kv_blocks=40)
    speculation, backend = llm.engine.speculation, llm.loaded.backend
    assert speculation is not None
    if "config" in way and isinstance(backend, AsynchronousReference):
        pytest.skip("the reference takes long for a real model, and keeps no states")
    generator, requests = random.Random(7), requests_of(20261122, 4 if "config" in way else 8)
    plain = {key: value for key, value in way.items() if key != "speculative_config"}
    expected = alone(lambda **changes: make(**plain, **changes), requests)

    def choose(_: list[Any], available: list[int], __: list[int]) -> LengthChoice:
        lengths = [min(3, count) for count in available]
        return LengthChoice(lengths, "guess" if any(lengths) else "none", 1.0)

    monkeypatch.setattr(speculation.rule, "steps_to_rest", lambda _: generator.choice([0, 0, 2, 3, 9]))
    monkeypatch.setattr(speculation.rule, "choose", choose)
    check_run(llm.engine, requests, expected)
    assert speculation.stats.num_draft_tokens > 0
    if isinstance(backend, AsynchronousReference):
        ahead = launches(backend.log)
        assert any(ahead)


def test_a_step_that_fails_to_launch_loses_nothing(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tokens of the step before are still there, and the next try goes on."""
    llm = make()
    params = SamplingParams(max_tokens=8, temperature=0.0, ignore_eos=True)
    expected = run(make(overlap_steps=False).engine, {"a": ([1, 2], params)})["a", 0].tokens
    engine, texts = llm.engine, dict[tuple[str, int], Text]()
    engine.add("a", [1, 2], params)
    for _ in range(3):
        collect(engine, texts)
    with monkeypatch.context() as patch:
        patch.setattr(engine._runner, "launch", _fail)
        with pytest.raises(EngineError, match="out of memory"):
            engine.step()
    while engine.num_unfinished:
        collect(engine, texts)
    assert texts["a", 0].tokens == expected


def _fail(*_: object) -> None:
    raise EngineError("out of memory")
