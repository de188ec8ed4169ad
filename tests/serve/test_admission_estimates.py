"""What admission learns: the engine's prices, bytes a token, the length of answers, the share of the cache."""

from __future__ import annotations

import asyncio
import random
from contextlib import suppress
from dataclasses import replace

import pytest
from virtual_server import Capacity, Numbers, run_virtually

from vivace.core.errors import ConfigError, OverloadedError
from vivace.serve.admission import Admission, AdmissionLimits
from vivace.serve.admission.demand import Demand
from vivace.serve.admission.drain_rate import DrainRate
from vivace.serve.admission.known_prefixes import MAX_ENTRIES, MIN_LEN, KnownPrefixes
from vivace.serve.admission.request_sizes import RequestSizes

SEED = 3
PROMPT_S, GENERATION_S = 0.0025, 0.0125  # the prices of the engine that is measured


class LinearEngine:
    """Time passes only as work is done, exactly at the prices above."""

    def __init__(self) -> None:
        self.now = 0.0
        self.numbers = Numbers(num_free_blocks=100)

    def clock(self) -> float:
        return self.now

    def state(self) -> Numbers:
        return replace(self.numbers)

    def work(self, prompt: int, generated: int) -> None:
        self.numbers.num_computed_tokens += prompt + generated
        self.numbers.num_generation_tokens += generated
        self.now += prompt * PROMPT_S + generated * GENERATION_S


def measured(engine: LinearEngine, num_steps: int, idle_s: float = 0.0) -> DrainRate:
    chance = random.Random(SEED)
    rate = DrainRate(AdmissionLimits(Capacity()), engine.state, engine.clock)
    for _ in range(num_steps):
        rate.started()
        engine.work(chance.choice([0, 0, 200, 500]), chance.choice([1, 8, 32]))
        rate.observe()
        if idle_s:
            rate.stopped()
            engine.now += idle_s
    return rate


@pytest.mark.parametrize("idle_s", [0.0, 3600.0], ids=["busy", "with idle hours"])
def test_prices_are_learned_within_a_tenth(idle_s: float) -> None:
    rate = measured(LinearEngine(), 300, idle_s)
    assert rate.prompt_tokens_per_s == pytest.approx(1 / PROMPT_S, rel=0.1)
    assert rate.generation_tokens_per_s == pytest.approx(1 / GENERATION_S, rel=0.1)
    demand = Demand(computed_tokens=1000, new_tokens=100)
    assert rate.seconds(demand) == pytest.approx(1000 * PROMPT_S + 100 * GENERATION_S, rel=0.1)


def test_before_anything_is_measured_the_stated_rates_hold() -> None:
    engine = LinearEngine()
    limits = AdmissionLimits(Capacity(), default_prompt_tokens_per_s=50.0, default_generation_tokens_per_s=5.0)
    rate = DrainRate(limits, engine.state, engine.clock)
    engine.now += 1000.0
    rate.observe()
    assert (rate.prompt_tokens_per_s, rate.generation_tokens_per_s) == (pytest.approx(50.0), pytest.approx(5.0))


def test_one_stall_does_not_ruin_the_estimate() -> None:
    engine = LinearEngine()
    rate = measured(engine, 300)
    engine.now += 600.0  # an engine that was restarted, a machine that slept
    engine.work(0, 32)
    rate.observe()
    assert rate.generation_tokens_per_s >= 0.5 / GENERATION_S


def test_a_change_of_speed_is_followed() -> None:
    engine = LinearEngine()
    rate = measured(engine, 100)
    for _ in range(100):  # now with twice the time for everything
        before = engine.now
        engine.work(200, 8)
        engine.now += engine.now - before
        rate.observe()
    assert rate.seconds(Demand(computed_tokens=200, new_tokens=8)) == pytest.approx(2 * (200 * 0.0025 + 0.1), rel=0.1)


def test_bytes_per_token_follow_the_text() -> None:
    sizes = RequestSizes(Capacity())
    assert sizes.estimate(3_000, 16, 1).num_prompt_tokens == 1_000
    for _ in range(100):
        sizes.learn_prompt(1_200, 1_000)  # a script of one token a byte, nearly
    assert sizes.bytes_per_token == pytest.approx(1.2, rel=0.01)
    for _ in range(100):
        sizes.learn_prompt(10, 0)
        sizes.learn_prompt(0, 10)  # a further prompt of a request whose bytes have been counted
    assert sizes.bytes_per_token == pytest.approx(1.2, rel=0.01)


def test_answers_are_expected_as_long_as_they_were() -> None:
    sizes = RequestSizes(Capacity())
    for _ in range(200):
        sizes.learn_output(50, 4_000)
    assert sizes.demand(100, 4_000, 1).new_tokens == pytest.approx(50, rel=0.05)
    assert sizes.demand(100, 8, 2).new_tokens == 16
    for _ in range(50):
        sizes.learn_output(8, 8)  # cut short: says nothing
    assert sizes.demand(100, 4_000, 1).new_tokens == pytest.approx(50, rel=0.05)
    assert sizes.demand(100, 4_000, 3).worst_blocks == 7 + 3 * 250  # blocks of 16


def test_prompts_that_the_cache_holds_cost_nothing() -> None:
    sizes = RequestSizes(Capacity())
    for _ in range(200):
        sizes.learn_cached(1_000, 900)
    demand = sizes.demand(1_000, 16, 1)
    assert demand.computed_tokens == pytest.approx(100, rel=0.05)
    assert demand.num_prompt_tokens == 1_000


def test_a_common_beginning_is_known_once_one_prompt_had_it() -> None:
    prefixes, chance = KnownPrefixes(), random.Random(SEED)
    common = [chance.randrange(1000) for _ in range(512)]
    prompts = [common + [chance.randrange(1000) for _ in range(32)] for _ in range(3)]
    assert [prefixes.note("a", prompt) for prompt in prompts] == [0, 512, 512]
    assert prefixes.note("a", common[:300] + [5] * 300) == 256
    assert prefixes.note("a", common) == 256, "the last token of a prompt is always computed"
    assert prefixes.note("b", prompts[0]) == 0, "keys do not share"
    assert prefixes.note("a", [1, 2, 3]) == 0


def test_prefixes_that_are_old_are_forgotten() -> None:
    prefixes = KnownPrefixes()
    for number in range(MAX_ENTRIES + 1):
        prefixes.note("a", [number] * (MIN_LEN + 1))
    assert prefixes.note("a", [MAX_ENTRIES] * 40) == MIN_LEN
    assert prefixes.note("a", [0] * 40) == 0


def test_clients_with_a_common_beginning_are_not_refused_for_it() -> None:
    """Eight prompts of 544 tokens, 12 s of work where nothing is shared and a sixth of it where 512 tokens are."""

    async def main(*, with_tokens: bool) -> int:
        admission = Admission(
            AdmissionLimits(Capacity(), default_prompt_tokens_per_s=300.0, default_generation_tokens_per_s=60.0)
        )
        turns = []
        for number in range(8):
            with suppress(OverloadedError):
                ticket = admission.enter(key="a", num_bytes=1632, max_tokens=64)
                prompt = [7] * 512 + [number] * 32
                ticket.measured(len(prompt), 64, prompt if with_tokens else None)
                turns.append(asyncio.create_task(ticket.turn()))
                await asyncio.sleep(0)
        return len(turns)

    assert run_virtually(main(with_tokens=True)) == 8
    assert run_virtually(main(with_tokens=False)) < 8


@pytest.mark.parametrize("name", ["max_queued_requests", "max_queue_s", "aging_s", "default_prompt_tokens_per_s"])
@pytest.mark.parametrize("value", [0, -1, float("nan")])
def test_limits_are_positive(name: str, value: float) -> None:
    with pytest.raises(ConfigError, match=name):
        AdmissionLimits(Capacity(), **{name: value})
