"""Simulated traffic against queueing theory, against laws of conservation and against a real engine's decisions."""

from __future__ import annotations

import math
import statistics
from array import array
from dataclasses import replace
from random import Random
from typing import Any

import pytest
from machines import perfect_machine

from vivace.bench.traffic.request import Traffic, TrafficRequest
from vivace.bench.traffic.scenario import make_traffic
from vivace.core.config import EngineConfig
from vivace.core.sampling import SamplingParams
from vivace.core.step import StepPlan
from vivace.engine.loader import load_engine
from vivace.models.presets import preset_spec
from vivace.plan.deployment import Deployment, SpeculationPlan
from vivace.plan.players import Players
from vivace.plan.simulation import WAKE_AFTER_S, Cost, Simulation
from vivace.plan.step_cost import StepCost
from vivace.plan.step_time import StepTime, step_model
from vivace.plan.tokenised_traffic import TokenisedTraffic, WordEncoder, fixed_traffic, tokenised

BLOCK = 16
MANY_BLOCKS = 100_000


def constant(seconds: float) -> Cost:
    return lambda _: StepTime(seconds, seconds, 0.0, 0.0)


def fixed(prompt: int, answer: int, count: int, cached: int = 0) -> TokenisedTraffic:
    return tokenised(fixed_traffic(prompt, answer, cached, count), WordEncoder(), BLOCK)


def chats(count: int) -> TokenisedTraffic:
    encoder = WordEncoder()
    made = make_traffic("chat", tokenizer=encoder, num_requests=count, concurrency=8, think_s=0.01)
    return tokenised(made, encoder, BLOCK)


def test_one_server_with_a_fixed_time_makes_waits_of_pollaczek_and_khinchine() -> None:
    """M/D/1: the mean wait is load x service / (2 (1 - load))."""
    service_s, load, count, num_batches = 0.01, 0.6, 12_000, 40
    traffic = fixed(8, 1, count)
    deployment = Deployment(max_num_seqs=1, max_num_batched_tokens=64, enable_prefix_caching=False)
    players = Players(traffic, rate=load / service_s, seed=7)
    simulation = Simulation(traffic, players, constant(service_s), deployment, num_kv_blocks=MANY_BLOCKS)
    records = sorted(simulation.play(), key=lambda one: one.intended_s)
    waits = [one.queue_s or 0.0 for one in records]
    size = count // num_batches  # neighbours share a queue: means of long batches are nearly independent
    means = [statistics.mean(waits[start : start + size]) for start in range(0, count, size)]
    error = statistics.stdev(means) / math.sqrt(num_batches)
    expected = load * service_s / (2 * (1 - load))
    assert statistics.mean(waits) == pytest.approx(expected, abs=4 * error)
    assert error < 0.1 * expected
    assert simulation.totals.busy_s == pytest.approx(count * service_s)


def test_the_first_step_after_a_pause_takes_longer() -> None:
    """In proportion to the pause, up to a limit; a request that finds the engine at work pays nothing."""
    times = (0.0, 1.0, 1.2 + WAKE_AFTER_S / 4)  # the second one's steps end at 1.2
    asked = tuple(TrafficRequest(i, 4, 2, token_ids=(i, 5, 6, 7), arrival_s=at) for i, at in enumerate(times))
    traffic = tokenised(Traffic("spaced", asked), WordEncoder(), BLOCK)
    simulation = Simulation(
        traffic, Players(traffic), constant(0.05), Deployment(), num_kv_blocks=MANY_BLOCKS, wake_s=0.1
    )
    first_s = [one.token_s[0] - one.intended_s for one in sorted(simulation.play(), key=lambda one: one.index)]
    assert first_s == pytest.approx([0.05, 0.15, 0.05 + 0.1 / 4])


def test_an_arrival_costs_the_engine_something_beside_its_steps() -> None:
    machine = perfect_machine()
    busy = replace(machine, efficiency=replace(machine.efficiency, admission_s=0.25, admission_token_s=0.01))
    traffic = fixed(100, 5, 1)
    deployment = Deployment(max_num_seqs=4, max_num_batched_tokens=40)
    latencies = []
    for one in (machine, busy):
        cost = StepCost(step_model(preset_spec("llama-3.2-1b"), one, deployment), deployment)
        play = Simulation(traffic, Players(traffic, users=1), cost, deployment, num_kv_blocks=MANY_BLOCKS).play()
        latencies.append(play[0].token_s[0] - play[0].intended_s)
    assert latencies[1] - latencies[0] == pytest.approx(0.25 + 100 * 0.01)


def test_without_a_queue_a_request_takes_its_own_steps() -> None:
    traffic = fixed(100, 5, 3)
    deployment = Deployment(max_num_seqs=4, max_num_batched_tokens=40)
    players = Players(traffic, users=1)
    records = Simulation(traffic, players, constant(0.5), deployment, num_kv_blocks=MANY_BLOCKS).play()
    for one in records:  # chunks of 40, 40 and 20 tokens, then four more tokens
        assert one.token_s[0] - one.intended_s == pytest.approx(1.5)
        assert one.ended_s - one.intended_s == pytest.approx(3.5)
        assert one.queue_s == 0


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("blocks", [60, 4_000])
def test_every_request_ends_with_all_its_tokens_and_gives_everything_back(seed: int, blocks: int) -> None:
    traffic = chats(60)
    deployment = Deployment(max_num_seqs=8, max_num_batched_tokens=64)
    players = Players(traffic, rate=100.0, seed=seed)
    simulation = Simulation(traffic, players, constant(0.01), deployment, num_kv_blocks=blocks)
    records = simulation.play()
    assert sorted(one.index for one in records) == list(range(60))
    answers = {one.asked.index: len(one.answer) for one in traffic.requests}
    for one in records:
        if one.status == "refused":  # longer than the whole cache
            continue
        assert one.output_len == len(one.token_s) == answers[one.index]
        assert list(one.token_s) == sorted(one.token_s)
        assert one.intended_s <= one.token_s[0]
        assert one.token_s[-1] == one.ended_s
    assert simulation.totals.busy_s <= simulation.now + 1e-9
    assert simulation.scheduler.block_manager.num_used == 0
    assert (simulation.totals.num_preemptions > 0) == (blocks == 60)


def test_the_same_play_twice_is_the_same() -> None:
    traffic = chats(40)
    deployment = Deployment(speculation=SpeculationPlan(3, 0.6))

    def play() -> list[tuple[float, ...]]:
        players = Players(traffic, users=5)
        simulation = Simulation(traffic, players, constant(0.01), deployment, num_kv_blocks=MANY_BLOCKS)
        return [one.token_s for one in simulation.play()]

    assert play() == play()


def test_users_of_a_closed_loop_have_one_request_each_and_turns_follow_their_answers() -> None:
    traffic = chats(60)
    players = Players(traffic, users=4)
    records = Simulation(traffic, players, constant(0.01), Deployment(), num_kv_blocks=MANY_BLOCKS).play()
    ends = {one.index: one.ended_s for one in records}
    begins = {one.index: one.intended_s for one in records}
    for request in traffic.requests:
        if request.asked.after is not None:
            assert begins[request.asked.index] >= ends[request.asked.after] + request.asked.think_s
    for moment in begins.values():
        assert sum(begins[index] <= moment < ends[index] for index in begins) <= 4


def test_turns_find_their_dialogue_in_the_prefix_cache() -> None:
    traffic = chats(60)
    records = Simulation(
        traffic, Players(traffic, users=1), constant(0.01), Deployment(), num_kv_blocks=MANY_BLOCKS
    ).play()
    by_index = {one.asked.index: one for one in traffic.requests}
    found = {one.index: one.num_cached_tokens or 0 for one in records}
    for request in traffic.requests:
        if request.asked.after is not None:
            before = by_index[request.asked.after]
            assert found[request.asked.index] >= (before.num_tokens - 1) // BLOCK * BLOCK
    assert statistics.mean(found.values()) == pytest.approx(traffic.mean_cached_len)


@pytest.mark.parametrize("acceptance", [0.0, 0.5, 1.0])
def test_guesses_shorten_answers_by_as_many_steps_as_they_should(acceptance: float) -> None:
    num_guesses, answer, count = 4, 121, 40
    traffic = fixed(16, answer, count)
    plan = SpeculationPlan(num_guesses, acceptance)
    deployment = Deployment(speculation=plan, max_num_seqs=1, max_num_batched_tokens=64)
    simulation = Simulation(traffic, Players(traffic, users=1), constant(1.0), deployment, num_kv_blocks=MANY_BLOCKS)
    records = simulation.play()
    assert all(one.output_len == answer for one in records)
    steps_an_answer = simulation.totals.num_steps / count - 1  # the first token comes with the prompt
    assert (answer - 1) / steps_an_answer == pytest.approx(plan.tokens_a_step, rel=0.05)


def test_who_leaves_frees_its_place() -> None:
    leaves = TrafficRequest(0, 8, 1_000, token_ids=tuple(range(8)), cancel_after_s=3.0)
    stays = TrafficRequest(1, 8, 2, token_ids=tuple(range(100, 108)))
    traffic = tokenised(Traffic("two", (leaves, stays)), WordEncoder(), BLOCK)
    deployment = Deployment(max_num_seqs=1)
    records = Simulation(traffic, Players(traffic), constant(1.0), deployment, num_kv_blocks=MANY_BLOCKS).play()
    assert [(one.index, one.status) for one in records] == [(0, "cancelled"), (1, "ok")]
    assert records[0].output_len == 3
    assert records[1].ended_s == pytest.approx(5.0)


def test_a_static_batch_waits_for_its_slowest() -> None:
    traffic = fixed(16, 10, 8)
    deployment = Deployment(batching="static", static_batch_size=4, max_num_batched_tokens=64)
    records = Simulation(traffic, Players(traffic), constant(1.0), deployment, num_kv_blocks=MANY_BLOCKS).play()
    assert sorted(round(one.ended_s) for one in records) == [10] * 4 + [20] * 4


def test_a_request_that_can_never_run_is_refused_and_nobody_waits_for_it() -> None:
    large = TrafficRequest(0, 200, 10, token_ids=tuple(range(200)))
    traffic = tokenised(Traffic("one", (large,)), WordEncoder(), BLOCK)
    records = Simulation(traffic, Players(traffic), constant(1.0), Deployment(), num_kv_blocks=4).play()
    assert [one.status for one in records] == ["refused"]


@pytest.mark.parametrize("seed", [3, 4])
def test_plans_are_those_of_a_real_engine(seed: int) -> None:
    """All requests at once over few blocks: chunks, shared prefixes and preemptions, step by step."""
    print(f"seed {seed}")
    requests = _requests(Random(seed))
    options = {"max_num_seqs": 6, "max_num_batched_tokens": 48, "num_kv_blocks": 14, "block_size": BLOCK}
    loaded = load_engine(EngineConfig(max_model_len=256, num_threads=1, **options))
    real = _recorded(loaded.engine.scheduler)
    for one in requests:
        params = SamplingParams(max_tokens=one.output_len, temperature=0.0, ignore_eos=True)
        loaded.engine.add(str(one.index), one.token_ids or (), params)
    while loaded.engine.num_unfinished:
        loaded.engine.step()
    traffic = tokenised(Traffic("some", tuple(requests)), WordEncoder(), BLOCK)
    deployment = Deployment(max_num_seqs=6, max_num_batched_tokens=48, block_size=BLOCK)
    simulation = Simulation(traffic, Players(traffic), constant(1.0), deployment, num_kv_blocks=14)
    simulated = _recorded(simulation.scheduler)
    simulation.play()
    assert loaded.engine.scheduler.num_preemptions > 0
    assert simulated == real


def _requests(random: Random) -> list[TrafficRequest]:
    shared = tuple(random.randrange(4, 2_000) for _ in range(48))
    made = []
    for index in range(12):
        own = tuple(random.randrange(4, 2_000) for _ in range(random.randint(5, 60)))
        prompt = shared[: random.choice((0, 16, 48))] + own
        made.append(TrafficRequest(index, len(prompt), random.randint(5, 60), token_ids=prompt))
    return made


def _recorded(scheduler: Any) -> list[list[tuple[str, int, int, bool]]]:
    """Every plan that the scheduler makes from now on."""
    plans: list[list[tuple[str, int, int, bool]]] = []
    original = scheduler.plan

    def plan() -> StepPlan:
        made: StepPlan = original()
        if made:
            plans.append([(one.sequence.request_id, one.start, one.num_new, one.samples) for one in made.scheduled])
        return made

    scheduler.plan = plan
    return plans


def test_answers_that_are_quoted_have_the_quotes_tokens() -> None:
    traffic = chats(30)
    by_index = {one.asked.index: one for one in traffic.requests}
    turns = [one for one in traffic.requests if one.asked.after is not None]
    assert turns
    for turn in turns:
        before = by_index[turn.asked.after or 0]
        assert turn.prompt[: before.num_tokens] == before.prompt + before.answer


def test_a_trace_keeps_its_own_times() -> None:
    requests = tuple(replace(one, arrival_s=3.0 * one.index) for one in fixed_traffic(8, 2, 0, 3).requests)
    traffic = tokenised(Traffic("trace", requests), WordEncoder(), BLOCK)
    records = Simulation(traffic, Players(traffic), constant(1.0), Deployment(), num_kv_blocks=100).play()
    assert [one.intended_s for one in records] == [0.0, 3.0, 6.0]
    assert array("d", (one.ended_s for one in records)) == array("d", (2.0, 5.0, 8.0))
