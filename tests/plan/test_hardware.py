"""The table of machines, comparisons of them, and what is recommended."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
from machines import perfect_machine

from vivace.bench.slo import SLO
from vivace.core.errors import ConfigError
from vivace.plan.comparison import best_of, compare
from vivace.plan.deployment import Deployment
from vivace.plan.hardware import GPUS, NAMES, hardware
from vivace.plan.planned_model import planned_model
from vivace.plan.processors import PROCESSORS
from vivace.plan.recommendation import recommendation
from vivace.plan.report import html
from vivace.plan.service import Capacity, PlannedService
from vivace.plan.workload import Load, workload

LLAMA_8B = planned_model("llama-3.1-8b")
TRAFFIC = workload("600:30:400", max_model_len=8192)
FEW = Deployment(max_num_seqs=24)  # at once: plays are short
USER, USERS = Load(users=1), Load(users=16)


@pytest.mark.parametrize("name", NAMES)
def test_every_row_has_a_source_with_a_year_and_sane_figures(name: str) -> None:
    machine = hardware(name)
    assert any(year in machine.source for year in map(str, range(2018, 2027)))
    assert 1e9 < machine.read_bytes_per_s < 1e13
    assert machine.operations_per_s["f32"] <= max(machine.operations_per_s.values())
    assert not machine.efficiency.is_measured
    assert "assumed" in machine.efficiency.basis


@pytest.mark.parametrize("name", GPUS)
def test_an_int8_or_fp8_peak_is_twice_that_of_16_bits_or_more(name: str) -> None:
    peaks = hardware(name).operations_per_s
    assert peaks["int8"] / peaks["f16"] == pytest.approx(2, rel=0.03) or peaks["int8"] / peaks["f16"] > 3.9
    assert peaks.get("fp8", 2 * peaks["f16"]) / peaks["f16"] == pytest.approx(2, rel=0.03)


@pytest.mark.parametrize("name", PROCESSORS)
def test_a_processor_has_the_bandwidth_of_its_channels(name: str) -> None:
    """Channels x 8 bytes x transfers a second, as the source says them."""
    sheet = PROCESSORS[name]
    channels, speed = sheet.source.split(": ")[1].split(" channels of DDR5-")
    assert int(channels) * 8 * int(speed.split(",")[0]) / 1000 == pytest.approx(sheet.gb_per_s)


def test_an_unknown_machine_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="h100"):
        hardware("h1000")


def test_a_recommendation_prefers_precision_that_keeps_the_objectives() -> None:
    load = Load(users=16, slo=SLO(ttft=500, tpot=50))
    candidates = compare(LLAMA_8B, [hardware("h100")], TRAFFIC, load, deployment=FEW, quantizations=["bf16", "awq"])
    best = best_of(candidates)
    assert best is not None
    assert best.deployment.quantization == "bf16"
    assert "H100" in recommendation(LLAMA_8B, candidates, load)[0]


def test_steps_are_as_large_as_each_machine_makes_them() -> None:
    machines = [hardware("h100"), replace(hardware("h100"), kind="cpu")]
    options: dict[str, Any] = {"deployment": FEW, "quantizations": ["bf16"]}
    usual = compare(LLAMA_8B, machines, TRAFFIC, USER, usual_steps=True, **options)
    assert [one.deployment.max_num_batched_tokens for one in usual] == [2048, 512]
    given = compare(LLAMA_8B, machines, TRAFFIC, USER, **options)
    assert {one.deployment.max_num_batched_tokens for one in given} == {512}


def test_a_small_machine_gets_fewer_bits_and_a_reason() -> None:
    candidates = compare(LLAMA_8B, [perfect_machine(memory=8e9)], TRAFFIC, USER)
    best = best_of(candidates)
    assert best is not None
    assert best.deployment.quantization == "awq"


def test_a_model_that_is_too_large_needs_several_devices_and_is_told_so() -> None:
    machines = [hardware("h100"), perfect_machine(memory=3e9)]
    candidates = compare(LLAMA_8B, machines, TRAFFIC, USER, quantizations=["bf16"])
    sentences = " ".join(recommendation(LLAMA_8B, candidates, USER))
    assert "memory of 6 such devices" in sentences
    assert "tensor parallel" in sentences
    alone = compare(LLAMA_8B, machines[1:], TRAFFIC, USER, quantizations=["bf16"])
    assert "fits none" in recommendation(LLAMA_8B, alone, USER)[0]


def test_more_users_than_one_machine_serves_take_replicas_that_keep_the_objectives() -> None:
    slo = SLO(ttft=700, tpot=50)
    few, many = (
        compare(LLAMA_8B, [hardware("l4")], TRAFFIC, Load(users=users, slo=slo), quantizations=["awq"])[0]
        for users in (4, 60)
    )
    assert few.num_machines == 1
    assert few.capacity is not None
    assert many.capacity is not None
    assert 4 <= few.capacity.users < 60
    assert many.num_machines == math.ceil(60 / many.capacity.users) > 1
    assert many.outcome is not None
    assert (many.outcome.good_share or 0.0) >= 0.9
    assert "replicas" in " ".join(recommendation(LLAMA_8B, [many], Load(users=60, slo=slo)))


def test_a_rate_that_one_machine_cannot_follow_is_divided() -> None:
    load = Load(rate_per_s=40.0)
    found = compare(LLAMA_8B, [hardware("l4")], TRAFFIC, load, quantizations=["awq"])[0]
    assert found.capacity is not None
    assert found.num_machines == math.ceil(40 / found.capacity.rate_per_s) > 1
    assert found.outcome is not None
    assert found.outcome.keeps_up


def test_where_one_machine_is_not_enough_there_are_two(monkeypatch: pytest.MonkeyPatch) -> None:
    """Although the search, over plays of its own, ends a little above the load that one machine did not bear."""
    load = Load(users=4, slo=SLO(ttft=0.001))
    lucky = Capacity(users=4.0, rate_per_s=1.0)
    monkeypatch.setattr(PlannedService, "capacity", lambda *_: lucky)
    found = compare(LLAMA_8B, [hardware("l4")], TRAFFIC, load, quantizations=["awq"])[0]
    assert found.num_machines == 2


def test_cost_of_tokens_is_the_price_over_the_rate() -> None:
    prices = {"h100": 3.6}
    found = compare(LLAMA_8B, [hardware("h100")], TRAFFIC, USERS, prices=prices, quantizations=["bf16"])[0]
    assert found.outcome is not None
    assert found.cost_per_million == pytest.approx(1000 / found.outcome.tokens_per_s)


def test_a_machine_without_kernels_is_never_the_answer_beside_one_that_has_them() -> None:
    machines = [hardware("m4-max"), hardware("xeon-8480")]
    candidates = compare(LLAMA_8B, machines, TRAFFIC, USER, quantizations=["int4"])
    answer, *others = recommendation(LLAMA_8B, candidates, USER)
    assert "Xeon" in answer
    assert any("no kernels for ARM" in sentence for sentence in others)


def test_the_page_needs_nothing_else_and_names_sources_and_assumptions() -> None:
    load = Load(users=2, slo=SLO(ttft=500))
    machines = [hardware("h100"), hardware("epyc-9654")]
    candidates = compare(LLAMA_8B, machines, TRAFFIC, load, quantizations=["bf16"], deployment=FEW)
    page = html(LLAMA_8B, candidates, TRAFFIC, load, recommendation(LLAMA_8B, candidates, load))
    assert "http-equiv" in page
    assert "src=" not in page
    for words in ("data sheet", "assumed for GPUs", "Recommendation", "H100", "Time to first token"):
        assert words in page


@pytest.mark.parametrize("name", ["llama-3.2-1b", None])
def test_models_by_name(name: str | None) -> None:
    assert planned_model(name).num_parameters > 1e6


def test_an_unknown_model_names_the_nearest_preset() -> None:
    with pytest.raises(ConfigError, match=r"llama-3\.2-1b"):
        planned_model("llama-3.2-1")
