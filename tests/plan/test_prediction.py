"""Predictions against sums done by hand, and what must hold for all of them."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from machines import perfect_machine

from vivace.bench.slo import SLO
from vivace.core.errors import ConfigError
from vivace.models.presets import preset_spec
from vivace.ops.backend import KVSpec
from vivace.plan.deployment import Deployment, SpeculationPlan, TrafficShape
from vivace.plan.memory import kv_spec, memory_need
from vivace.plan.prediction import predict
from vivace.plan.step_time import resident_share, step_model

LLAMA_1B = preset_spec("llama-3.2-1b")
# Of one layer: q and o 2048 x 2048, k and v 512 x 2048, gate, up and down 8192 x 2048; and the output matrix.
LAYER_ELEMENTS = 2 * 2048 * 2048 + 2 * 512 * 2048 + 3 * 8192 * 2048
HEAD_ELEMENTS = 128_256 * 2048
MATRIX_BYTES = 2 * (16 * LAYER_ELEMENTS + HEAD_ELEMENTS)


@pytest.mark.parametrize(("name", "num_bytes"), [("llama-3.2-1b", 32_768), ("llama-3.1-8b", 131_072)])
def test_kv_bytes_of_llama_3_in_16_bits(name: str, num_bytes: int) -> None:
    """2 (keys, values) x layers x 8 heads x their width x 2 bytes, as is often quoted: 128 KiB a token for 8B."""
    assert kv_spec(preset_spec(name), Deployment()).bytes_per_token == num_bytes


def test_a_decode_step_takes_as_long_as_reading_the_weights_and_the_cache() -> None:
    model = step_model(LLAMA_1B, perfect_machine(read=1e12, peak=1e18), Deployment("bf16"))
    kv_bytes = 1001 * 32_768
    assert model.seconds(1, 1000) == pytest.approx((MATRIX_BYTES + kv_bytes) / 1e12, rel=1e-3)
    assert model.seconds(8, 1000) == pytest.approx((MATRIX_BYTES + 8 * kv_bytes) / 1e12, rel=1e-3)


def test_a_prompt_takes_as_long_as_its_arithmetic() -> None:
    model = step_model(LLAMA_1B, perfect_machine(read=1e18, peak=1e14), Deployment("bf16"))
    products = 2 * 512 * 16 * LAYER_ELEMENTS + 2 * HEAD_ELEMENTS  # only the last token is sampled
    attention = 4 * 16 * 2048 * (512 * 513 / 2)
    assert model.seconds(0, 0, 1, 512) == pytest.approx((products + attention) / 1e14, rel=1e-3)


def test_a_window_bounds_what_attention_reads() -> None:
    spec = preset_spec("mistral-7b")
    model = step_model(spec, perfect_machine(read=1e12, peak=1e18), Deployment("bf16"))
    assert model.seconds(1, 5_000) == pytest.approx(model.seconds(1, 20_000), rel=1e-6)
    assert model.seconds(1, 1_000) < model.seconds(1, 4_000)


def test_memory_holds_weights_and_as_many_sequences_as_fit_beside_them() -> None:
    deployment = Deployment("bf16", max_num_seqs=1, max_num_batched_tokens=1)
    machine = perfect_machine(memory=8e9)
    need = memory_need(LLAMA_1B, machine, deployment, 1024)
    assert need.weights_bytes == MATRIX_BYTES + 4 * 33 * 2048
    room = 8 * 10**9 - need.fixed_bytes
    assert need.max_sequences == room // (16 * 32_768) // 64
    assert need.max_context == min(131_072, room // (16 * 32_768) * 16)


def test_a_model_that_does_not_fit_says_so() -> None:
    prediction = predict(LLAMA_1B, perfect_machine(memory=2e9), Deployment("bf16"), TrafficShape())
    assert not prediction.fits
    assert prediction.binds == "memory"
    assert prediction.ttft_ms is None
    assert prediction.tokens_per_s == 0
    assert predict(LLAMA_1B, perfect_machine(memory=2e9), Deployment("int4"), TrafficShape()).fits


def test_one_user_alone_sees_prefill_and_decode_and_nothing_else() -> None:
    machine = perfect_machine()
    deployment = Deployment("bf16", max_num_batched_tokens=512)
    model = step_model(LLAMA_1B, machine, deployment)
    prediction = predict(LLAMA_1B, machine, deployment, TrafficShape(512, 129))
    assert prediction.ttft_ms == pytest.approx(1e3 * model.seconds(0, 0, 1, 512), rel=0.1)
    assert prediction.itl_ms == pytest.approx(1e3 * model.seconds(1, 512 + 64.5), rel=0.01)
    seconds = (prediction.ttft_ms or 0) / 1e3 + 128 * (prediction.itl_ms or 0) / 1e3
    assert prediction.tokens_per_s == pytest.approx(129 / seconds, rel=0.05)


def test_one_request_at_a_time_is_a_static_batch_of_one() -> None:
    machine, traffic = perfect_machine(), TrafficShape(512, 128, concurrency=16)
    naive = Deployment("bf16", batching="static", static_batch_size=1, enable_prefix_caching=False)
    slow, fast = (predict(LLAMA_1B, machine, one, traffic) for one in (naive, Deployment("bf16")))
    assert slow.running == 1
    assert fast.tokens_per_s > 5 * slow.tokens_per_s
    assert slow.binds == "queueing"


def test_a_cached_prefix_saves_its_prefill() -> None:
    machine, deployment = perfect_machine(), Deployment("bf16", max_num_batched_tokens=4096)
    cold = predict(LLAMA_1B, machine, deployment, TrafficShape(2000, 64))
    warm = predict(LLAMA_1B, machine, deployment, TrafficShape(2000, 64, cached_prefix_len=1900))
    unshared = replace(deployment, enable_prefix_caching=False)
    off = predict(LLAMA_1B, machine, unshared, TrafficShape(2000, 64, cached_prefix_len=1900))
    assert (warm.ttft_ms or 0) < 0.3 * (cold.ttft_ms or 0)
    assert off.ttft_ms == cold.ttft_ms


@pytest.mark.parametrize(("acceptance", "tokens"), [(0.0, 1.0), (0.5, 1.9375), (1.0, 5.0)])
def test_expected_tokens_of_a_speculative_step(acceptance: float, tokens: float) -> None:
    """1 + a + a^2 + a^3 + a^4 with four guesses."""
    assert SpeculationPlan(4, acceptance).tokens_a_step == pytest.approx(tokens)


def test_guesses_that_stand_make_decode_faster_and_those_that_fall_do_not() -> None:
    machine, traffic = perfect_machine(), TrafficShape(64, 256)
    plain, good, bad = (
        predict(LLAMA_1B, machine, Deployment("bf16", speculation=plan), traffic).tpot_ms or 0.0
        for plan in (None, SpeculationPlan(4, 0.8), SpeculationPlan(4, 0.0))
    )
    assert good < 0.4 * plain
    assert bad >= plain


def test_arrivals_faster_than_answers_wait_for_ever() -> None:
    machine, deployment = perfect_machine(), Deployment("bf16", max_num_seqs=8)
    capacity = predict(LLAMA_1B, machine, deployment, TrafficShape(concurrency=8)).requests_per_s
    calm = predict(LLAMA_1B, machine, deployment, TrafficShape(rate_per_s=capacity / 4))
    busy = predict(LLAMA_1B, machine, deployment, TrafficShape(rate_per_s=0.95 * capacity))
    over = predict(LLAMA_1B, machine, deployment, TrafficShape(rate_per_s=1.2 * capacity))
    assert (calm.queue_ms or 0) < (busy.queue_ms or 0)
    assert over.ttft_ms is None
    assert over.binds == "queueing"
    assert calm.requests_per_s == pytest.approx(capacity / 4)


def test_users_at_the_objectives_are_the_most_that_keep_them() -> None:
    machine, deployment, slo = perfect_machine(), Deployment("bf16"), SLO(tpot=10)
    users = predict(LLAMA_1B, machine, deployment, TrafficShape(slo=slo)).users_at_slo
    assert users is not None
    assert users > 1
    at, above = (
        predict(LLAMA_1B, machine, deployment, TrafficShape(concurrency=count)).tpot_ms or 0.0
        for count in (users, users + 1)
    )
    assert at <= 10 < above


positive = st.floats(1.0, 8.0)
shapes = st.builds(
    TrafficShape,
    prompt_len=st.integers(1, 4000),
    output_len=st.integers(1, 1000),
    concurrency=st.integers(1, 64),
)


@settings(max_examples=60, deadline=None)
@given(shapes, positive, st.sampled_from(["bf16", "int8", "awq"]))
def test_more_bandwidth_or_arithmetic_is_never_slower(traffic: TrafficShape, factor: float, weights: str) -> None:
    slow = predict(LLAMA_1B, perfect_machine(), Deployment(weights), traffic)
    for machine in (perfect_machine(read=factor * 1e12), perfect_machine(peak=factor * 1e14)):
        fast = predict(LLAMA_1B, machine, Deployment(weights), traffic)
        assert fast.tokens_per_s >= slow.tokens_per_s * (1 - 1e-9)
        assert (fast.ttft_ms or 0) <= (slow.ttft_ms or 0) * (1 + 1e-9)
        assert (fast.tpot_ms or 0) <= (slow.tpot_ms or 0) * (1 + 1e-9)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 64), st.integers(1, 8000), st.integers(0, 2000))
def test_more_work_never_takes_less(streams: int, context: int, chunk: int) -> None:
    model = step_model(LLAMA_1B, perfect_machine(), Deployment("bf16"))
    base = model.seconds(streams, context, 1, chunk)
    assert model.seconds(streams + 1, context, 1, chunk) >= base
    assert model.seconds(streams, context + 100, 1, chunk) >= base
    assert model.seconds(streams, context, 1, chunk + 100) >= base


@pytest.mark.parametrize("name", ["qwen2.5-0.5b", "llama-3.2-1b", "gemma-2-2b", "phi-3-mini"])
def test_more_bits_are_never_smaller(name: str) -> None:
    spec = preset_spec(name)
    gpu = perfect_machine(memory=1e12)
    for machine, names in (
        (replace(gpu, kind="cpu"), ("int4", "int8", "bf16", "f32")),
        (gpu, ("awq", "fp8", "bf16", "f32")),
    ):
        sizes = [memory_need(spec, machine, Deployment(one), 64).weights_bytes for one in names]
        assert sizes == sorted(sizes)


@pytest.mark.parametrize("dtype", ["f32", "bf16", "int8_per_token_head", "int4_per_token_head"])
def test_kv_sizes_are_those_of_the_engine(dtype: str) -> None:
    deployment = Deployment(kv_cache_dtype=dtype)  # type: ignore[arg-type]
    assert kv_spec(LLAMA_1B, deployment) == KVSpec(16, 8, 64, 16, dtype)  # type: ignore[arg-type]


def test_what_a_cache_holds_falls_with_what_is_read() -> None:
    shares = [resident_share(size, 32) for size in (0, 16, 24, 32, 40, 400)]
    assert shares == sorted(shares, reverse=True)
    assert shares[:2] == [1, 1]
    assert shares[3] == 0.5
    assert shares[-1] < 0.05
    assert resident_share(1e9, 0) == 0


@pytest.mark.parametrize(
    "values",
    [{"prompt_len": 0}, {"output_len": float("nan")}, {"rate_per_s": 0.0}, {"prompt_len": 9, "cached_prefix_len": 9}],
)
def test_traffic_that_makes_no_sense_is_refused(values: dict[str, float]) -> None:
    with pytest.raises(ConfigError):
        TrafficShape(**values)  # type: ignore[arg-type]
