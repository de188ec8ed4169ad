"""Speculation beside plain decoding: the same prompts over the same weights, interleaved, texts compared."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from vivace.bench.speculation_prompts import Prompts
from vivace.bench.synthetic_guesses import SyntheticGuesses
from vivace.core.config import EngineConfig
from vivace.core.errors import EngineError
from vivace.core.sampling import SamplingParams
from vivace.core.speculation import SpeculativeConfig
from vivace.engine.engine import Engine
from vivace.engine.loader import LoadedEngine, load_again
from vivace.speculate.rule import LengthRule
from vivace.speculate.speculation import Speculation

COST_TOKENS = 24  # of a run that measures steps


@dataclass(frozen=True, slots=True)
class Method:
    """`rate`: guesses are made up, so that they stand with this chance; `config` then says how many."""

    name: str
    config: SpeculativeConfig
    rate: float | None = None


@dataclass(frozen=True, slots=True)
class Comparison:
    """One method at one batch size and prompt length. Speed-ups are ratios of a round's two runs.

    `stood[i]`: share of the guesses at place i, when all places are always guessed, that stood. `guess_s`: of a pass
    that makes one guess for each sequence, None where making them is free.
    """

    method: str
    batch_size: int
    prompt_len: int
    plain_tokens_per_s: float
    speedups: list[float]  # as the rule chooses, round by round
    always_speedups: list[float]  # guessing as much as there is at every step
    tokens_per_step: float  # and sequence, as the rule chooses
    stood: list[float]
    guess_s: float | None
    choices: dict[str, int] = field(default_factory=dict)

    def record(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class StepCosts:
    """Seconds of a decode step of `batch_size` sequences with 0, 1, 2, ... guesses each."""

    batch_size: int
    prompt_len: int
    step_s: list[float]


@dataclass(frozen=True, slots=True)
class _Run:
    tokens: list[list[int]]
    seconds: float
    num_steps: int


class SpeculationBench:
    """`config` is what `loaded` was loaded with and has room for all that is asked."""

    def __init__(
        self,
        loaded: LoadedEngine,
        config: EngineConfig,
        prompts: Prompts,
        params: SamplingParams,
        *,
        rounds: int,
        clock: Callable[[], float],
    ) -> None:
        self._loaded = loaded
        self._config = config
        self._prompts = prompts
        self._params = params
        self._rounds = rounds
        self._clock = clock

    def compare(self, method: Method, sizes: Sequence[tuple[int, int]]) -> Iterator[Comparison]:
        """One for each (batch size, prompt length). Raises `ConfigError` where the method cannot be had."""
        ruled, always = self._engine(method, adaptive=True), self._engine(method, adaptive=False)
        for batch_size, prompt_len in sizes:
            yield self._compare(method, ruled, always, self._prompts.take(batch_size, prompt_len), prompt_len)

    def step_costs(self, most: int, sizes: Sequence[tuple[int, int]]) -> Iterator[StepCosts]:
        """By the number of guesses for each sequence, 0 to `most`; none of them stands."""
        method = Method("costs", SpeculativeConfig("ngram", num_speculative_tokens=most), 0.0)
        params = replace(self._params, max_tokens=COST_TOKENS)
        for batch_size, prompt_len in sizes:
            prompts = self._prompts.take(batch_size, prompt_len)
            answers = self._run(self._loaded.engine, prompts, params).tokens
            engine = self._engine(method, adaptive=False)
            speculation, guesses = _speculation(engine), _synthetic(engine)
            guesses.answers = answers
            for depth in (*range(most + 1), *range(most, -1, -1)):
                guesses.depth = depth
                self._run(engine, prompts, params)
            rule = speculation.rule
            sizes_with_guesses = [batch_size * (1 + depth) for depth in range(1, most + 1)]
            step_s = [rule.plain.seconds(batch_size), *map(rule.verifying.seconds, sizes_with_guesses)]
            yield StepCosts(batch_size, prompt_len, step_s)

    def _compare(
        self, method: Method, ruled: Engine, always: Engine, prompts: list[list[int]], prompt_len: int
    ) -> Comparison:
        plain = self._run(self._loaded.engine, prompts, self._params)  # warms prefix caches up
        for engine in (ruled, always):
            if method.rate is not None:
                _synthetic(engine).answers = plain.tokens
            self._run(engine, prompts, self._params)
        before, all_before = _counts(ruled), _counts(always)
        num_steps, speeds, speedups, always_speedups = 0, [], [], []
        for _ in range(self._rounds):
            plain = self._run(self._loaded.engine, prompts, self._params)
            guessing, guessing_always = (self._run(engine, prompts, self._params) for engine in (ruled, always))
            if not plain.tokens == guessing.tokens == guessing_always.tokens:
                raise EngineError(f"speculation by {method.name} changed the text: please report it")
            speeds.append(sum(map(len, plain.tokens)) / plain.seconds)
            speedups.append(plain.seconds / guessing.seconds)
            always_speedups.append(plain.seconds / guessing_always.seconds)
            num_steps += guessing.num_steps
        counts, all_counts = _counts(ruled) - before, _counts(always) - all_before
        rule = _speculation(always).rule
        return Comparison(
            method=method.name,
            batch_size=len(prompts),
            prompt_len=prompt_len,
            plain_tokens_per_s=statistics.median(speeds),
            speedups=speedups,
            always_speedups=always_speedups,
            tokens_per_step=self._rounds * len(plain.tokens[0]) / num_steps,
            stood=all_counts.stood,
            guess_s=rule.guessing.seconds(len(prompts)) if method.rate is None else None,
            choices=counts.choices,
        )

    def _run(self, engine: Engine, prompts: list[list[int]], params: SamplingParams) -> _Run:
        tokens: list[list[int]] = [[] for _ in prompts]
        for number, prompt in enumerate(prompts):
            engine.add(str(number), prompt, params)
        steps_before, began = engine.stats.num_steps, self._clock()
        while engine.num_unfinished:
            for event in engine.step():
                if event.token is not None:
                    tokens[int(event.request_id)].append(event.token)
        seconds = self._clock() - began
        for number in range(len(prompts)):
            engine.forget(str(number))
        return _Run(tokens, seconds, engine.stats.num_steps - steps_before)

    def _engine(self, method: Method, *, adaptive: bool) -> Engine:
        config = replace(self._config, speculative_config=replace(method.config, adaptive=adaptive))
        engine = load_again(self._loaded, config).engine
        if method.rate is not None:
            most = method.config.num_speculative_tokens
            guesses = SyntheticGuesses(method.rate, self._loaded.spec.vocab_size, config.seed, most)
            engine.speculation = Speculation(guesses, LengthRule(most, adaptive=adaptive, sequential=False))
        return engine


@dataclass(frozen=True, slots=True)
class _Counts:
    """Of one engine's speculation since its start, or between two looks."""

    num_drafts: int
    accepted: list[int]
    choices: dict[str, int]

    def __sub__(self, before: _Counts) -> _Counts:
        return _Counts(
            self.num_drafts - before.num_drafts,
            [now - then for now, then in zip(self.accepted, before.accepted, strict=True)],
            {name: count - before.choices.get(name, 0) for name, count in self.choices.items()},
        )

    @property
    def stood(self) -> list[float]:
        """By place, of the guesses whose predecessors all stood."""
        reached = [self.num_drafts, *self.accepted]
        return [stood / tried for tried, stood in zip(reached, self.accepted, strict=False) if tried]


def _counts(engine: Engine) -> _Counts:
    stats = _speculation(engine).stats
    return _Counts(stats.num_drafts, list(stats.num_accepted_by_position), dict(stats.num_choices))


def _speculation(engine: Engine) -> Speculation:
    assert engine.speculation is not None  # what `_engine` made
    return engine.speculation


def _synthetic(engine: Engine) -> SyntheticGuesses:
    proposer = _speculation(engine).proposer
    assert isinstance(proposer, SyntheticGuesses)
    return proposer
