"""The table of machines, comparisons of them, and what is recommended."""

from __future__ import annotations

import pytest
from machines import perfect_machine

from vivace.bench.slo import SLO
from vivace.core.errors import ConfigError
from vivace.plan.comparison import best_of, compare, workload_shape
from vivace.plan.deployment import TrafficShape
from vivace.plan.hardware import GPUS, NAMES, PROCESSORS, hardware
from vivace.plan.planned_model import planned_model
from vivace.plan.recommendation import recommendation
from vivace.plan.report import html

LLAMA_8B = planned_model("llama-3.1-8b")


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


@pytest.mark.parametrize("name", ["chat", "rag", "512:128", "512:128:256"])
def test_workloads(name: str) -> None:
    assert workload_shape(name).prompt_len > 0


@pytest.mark.parametrize("name", ["chats", "512", "512:x", "1:2:3:4"])
def test_an_unknown_workload_is_refused(name: str) -> None:
    with pytest.raises(ConfigError):
        workload_shape(name)


def test_a_recommendation_prefers_precision_that_keeps_the_objectives() -> None:
    traffic = TrafficShape(600, 150, concurrency=16, slo=SLO(ttft=500, tpot=50))
    candidates = compare(LLAMA_8B, [hardware("h100")], traffic)
    best = best_of(candidates)
    assert best is not None
    assert best.deployment.quantization == "bf16"
    assert "H100" in recommendation(LLAMA_8B, candidates, traffic)[0]


def test_a_small_machine_gets_fewer_bits_and_a_reason() -> None:
    traffic = TrafficShape(600, 150)
    candidates = compare(LLAMA_8B, [perfect_machine(memory=8e9)], traffic)
    best = best_of(candidates)
    assert best is not None
    assert best.deployment.quantization == "awq"


def test_a_model_that_is_too_large_needs_several_devices_and_is_told_so() -> None:
    traffic = TrafficShape(600, 150)
    candidates = compare(LLAMA_8B, [hardware("h100"), perfect_machine(memory=3e9)], traffic, quantizations=["bf16"])
    sentences = " ".join(recommendation(LLAMA_8B, candidates, traffic))
    assert "memory of 6 such devices" in sentences
    assert "tensor parallel" in sentences
    alone = compare(LLAMA_8B, [perfect_machine(memory=3e9)], traffic, quantizations=["bf16"])
    assert "fits none" in recommendation(LLAMA_8B, alone, traffic)[0]


def test_more_users_than_one_machine_serves_take_several() -> None:
    slo = SLO(ttft=500, tpot=50)
    one, many = (
        compare(LLAMA_8B, [hardware("l4")], TrafficShape(600, 150, concurrency=users, slo=slo), quantizations=["awq"])
        for users in (8, 200)
    )
    assert one[0].num_machines == 1
    users = many[0].prediction.users_at_slo
    assert users
    assert many[0].num_machines == -(-200 // users)


def test_cost_of_tokens_is_the_price_over_the_rate() -> None:
    candidate = compare(LLAMA_8B, [hardware("h100")], TrafficShape(), prices={"h100": 3.6}, quantizations=["bf16"])[0]
    assert candidate.cost_per_million == pytest.approx(1000 / candidate.prediction.tokens_per_s)


def test_the_page_needs_nothing_else_and_names_sources_and_assumptions() -> None:
    traffic = TrafficShape(600, 150, slo=SLO(ttft=500))
    candidates = compare(LLAMA_8B, [hardware("h100"), hardware("epyc-9654")], traffic)
    page = html(LLAMA_8B, candidates, traffic, recommendation(LLAMA_8B, candidates, traffic))
    assert "http-equiv" in page
    assert "src=" not in page
    for words in ("data sheet", "assumed for GPUs", "Recommendation", "H100"):
        assert words in page


@pytest.mark.parametrize("name", ["llama-3.2-1b", None])
def test_models_by_name(name: str | None) -> None:
    assert planned_model(name).num_parameters > 1e6


def test_an_unknown_model_names_the_nearest_preset() -> None:
    with pytest.raises(ConfigError, match=r"llama-3\.2-1b"):
        planned_model("llama-3.2-1")
