"""What is told of simulated traffic, and the most load that keeps objectives."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from machines import perfect_machine

from vivace.bench.records import RequestRecord
from vivace.bench.slo import SLO
from vivace.core.errors import ConfigError
from vivace.models.presets import preset_spec
from vivace.plan.deployment import Deployment
from vivace.plan.outcome import Window, outcome
from vivace.plan.prediction import predict
from vivace.plan.service import CLOSE, PlannedService, _largest
from vivace.plan.simulation import Totals
from vivace.plan.workload import Load, trace_workload, workload

LLAMA_1B = preset_spec("llama-3.2-1b")
SHORT = workload("64:16", max_model_len=2048)
DEPLOYMENT = Deployment("bf16", max_num_seqs=16)


def record(index: int, due: float, first: float, gap: float, count: int) -> RequestRecord:
    moments = tuple(first + gap * place for place in range(count))
    return RequestRecord(index, due, due, moments[-1], "ok", 10, count, moments, queue_s=0.25)


def test_figures_of_requests_that_were_worked_out_by_hand() -> None:
    records = [record(0, 0.0, 1.0, 0.1, 11), record(1, 1.0, 3.0, 0.2, 6)]
    found = outcome(records, Totals(busy_s=3.0, bandwidth_s=2.0, arithmetic_s=1.0), SLO(ttft=1500))
    assert found.ttft_ms is not None
    assert found.itl_ms is not None
    assert (found.ttft_ms.mean, found.ttft_ms.p50) == (1500, 1500)
    assert found.itl_ms.mean == pytest.approx((10 * 100 + 5 * 200) / 15)
    assert found.tokens_per_s == pytest.approx(17 / 4)
    assert found.good_share == 0.5
    assert found.goodput_per_s == pytest.approx(1 / 4)
    assert found.queue_ms is not None
    assert found.queue_ms.p99 == 250
    assert found.binds == "bandwidth"


def test_a_window_counts_who_was_due_in_it_and_what_came_out_in_it() -> None:
    records = [record(index, float(index), index + 0.5, 0.1, 2) for index in range(40)]
    found = outcome(records, Totals(), window=Window(10.0, 30.0))
    assert found.num_requests == 21
    assert found.tokens_per_s == pytest.approx(2.0)
    assert found.requests_per_s == pytest.approx(1.0)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 3000), st.integers(1, 3000))
def test_the_largest_that_keeps_is_found_from_any_guess(threshold: int, guess: int) -> None:
    found = _largest(lambda value: value <= threshold, 1, guess, 4000, is_whole=True)
    assert found <= threshold
    assert found == threshold or found * CLOSE + 1 >= threshold
    rate = _largest(lambda value: value <= threshold, 1e-3, guess, 4000, is_whole=False)
    assert threshold == 0 or threshold / CLOSE <= rate <= threshold


def test_one_user_alone_is_what_the_steady_state_says() -> None:
    """Where nothing is random, the simulation and the formulas agree."""
    machine, load = perfect_machine(), Load(users=1)
    traffic = workload("512:128", max_model_len=2048)
    simulated = PlannedService(LLAMA_1B, machine, DEPLOYMENT, traffic).play(load)
    formula = predict(LLAMA_1B, machine, DEPLOYMENT, traffic.shape(load))
    assert simulated.ttft_ms is not None
    assert simulated.itl_ms is not None
    assert formula.ttft_ms is not None
    assert simulated.ttft_ms.p50 == pytest.approx(formula.ttft_ms, rel=0.1)
    assert simulated.itl_ms.p50 == pytest.approx(formula.itl_ms, rel=0.02)
    assert simulated.tokens_per_s == pytest.approx(formula.tokens_per_s, rel=0.05)


def test_the_most_users_keep_the_objectives_and_more_do_not() -> None:
    load = Load(users=4, slo=SLO(ttft=40, tpot=4))
    service = PlannedService(LLAMA_1B, perfect_machine(peak=1e13), DEPLOYMENT, SHORT)
    capacity = service.capacity(load)
    assert 1 <= capacity.users < 1000
    assert capacity.outcome is not None
    assert (capacity.outcome.good_share or 0.0) >= load.slo_share
    more = service.play(Load(users=round(2 * capacity.users), slo=load.slo))
    assert (more.good_share or 0.0) < load.slo_share


def test_a_machine_without_objectives_still_has_a_rate_that_it_cannot_follow() -> None:
    service = PlannedService(LLAMA_1B, perfect_machine(), DEPLOYMENT, SHORT)
    capacity = service.capacity(Load(rate_per_s=1.0))
    assert capacity.rate_per_s > 1
    assert service.play(Load(rate_per_s=capacity.rate_per_s / 2)).keeps_up
    assert not service.play(Load(rate_per_s=2 * capacity.rate_per_s)).keeps_up


def test_stricter_percentiles_admit_no_more() -> None:
    service = PlannedService(LLAMA_1B, perfect_machine(peak=1e13), DEPLOYMENT, SHORT)
    users = [service.capacity(Load(users=8, slo=SLO(ttft=40), slo_share=share)).users for share in (0.5, 0.9, 0.99)]
    assert users == sorted(users, reverse=True)


@pytest.mark.parametrize("name", ["chat", "rag", "system-prompt", "agent", "long-prompt", "long-answer", "uniform"])
def test_scenarios_have_means_and_what_their_prompts_share(name: str) -> None:
    shape = workload(name, max_model_len=2048).shape(Load(users=4))
    assert shape.prompt_len + shape.output_len <= 2048
    assert 0 <= shape.cached_prefix_len < shape.prompt_len
    shares = name not in ("long-prompt", "long-answer", "uniform")
    assert (shape.cached_prefix_len > 0) == shares


def test_lengths_of_ones_own() -> None:
    shape = workload("512:128:256", max_model_len=2048).shape(Load(users=4))
    assert (shape.prompt_len, shape.output_len) == (512, 128)
    assert shape.cached_prefix_len == pytest.approx(256, rel=0.02)  # the first request finds nothing


@pytest.mark.parametrize(
    "name", ["chats", "512", "512:x", "1:2:3:4", "0:5", "5:0", "8:8:8", "2000:100", "conversations"]
)
def test_an_unknown_workload_is_refused(name: str) -> None:
    with pytest.raises(ConfigError):
        workload(name, max_model_len=2048)


def test_a_trace_is_read_with_its_times_and_lengths(tmp_path: Path) -> None:
    path = tmp_path / "trace.csv"
    rows = [f"2023-11-16 18:15:{10 + second}.0000000,{100 + second},{5 + second}" for second in range(8)]
    path.write_text("\n".join(["TIMESTAMP,ContextTokens,GeneratedTokens", *rows]) + "\n")
    traffic = trace_workload(path, max_model_len=2048)
    some = traffic.traffic(100)
    assert [len(one.prompt) for one in some.requests] == list(range(100, 108))
    assert [one.asked.arrival_s for one in some.requests] == [float(second) for second in range(8)]
    found = PlannedService(LLAMA_1B, perfect_machine(), DEPLOYMENT, traffic).play(Load())
    assert found.num_requests == 8
    assert found.duration_s >= 7


@pytest.mark.parametrize(
    "values", [{"users": 0}, {"rate_per_s": 0.0}, {"users": 1, "rate_per_s": 1.0}, {"slo_share": 0}]
)
def test_loads_that_make_no_sense_are_refused(values: dict[str, float]) -> None:
    with pytest.raises(ConfigError):
        Load(**values)  # type: ignore[arg-type]
