"""What is fitted to steps whose laws are known, and what is kept of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from machines import perfect_machine

from vivace.backends.cpu.backend import CpuBackend
from vivace.core.errors import ConfigError
from vivace.models.presets import preset_spec
from vivace.plan.calibration import fit
from vivace.plan.deployment import Deployment
from vivace.plan.machine import RateCurve, WidthRates
from vivace.plan.measurement import (
    CACHED_STREAMS,
    PAUSE_S,
    SHALLOW,
    WAKING_ROUNDS,
    RequestCosts,
    StepSample,
    Work,
    measure_requests,
)
from vivace.plan.step_time import step_model
from vivace.plan.this_machine import calibration_of, calibration_path, load_calibration, save_calibration

RATE, READ, PEAK, SHARE, OP_S = 5e11, 4e10, 2e11, 0.8, 1e-6
ATTENTION_RATE, EXTRA_KEYS = 2e11, 32
PYTHON_S, SEQUENCE_S, LOGIT_S = 4e-5, 2e-6, 1e-10
VOCABULARY = 2_000
GROUPS = {256: 1, 512: 4, 1536: 6}  # query heads to a head of keys, by width
KEY_SHARE = 0.8  # of the time of attention in groups of 4, times 4, goes to the keys alone


def _sample(
    *, is_cached: bool, width: int, streams: int, new: int, depth: int, with_engine: bool = False
) -> StepSample:
    rows = streams * new
    operations, num_bytes = 2.0 * rows * 1e8, 1e8
    small_operations = operations / 8
    keys = depth + (new + 1) / 2
    attended = 1e4 * rows * keys
    slower = 1 + KEY_SHARE * (1 / GROUPS[width] - 1 / 4) if new == 1 else 1.0
    attention_s = slower * attended * (1 + EXTRA_KEYS / keys) / ATTENTION_RATE

    def product_s(work: float, size: float) -> float:
        read_s = 0.0 if is_cached else size / (READ * SHARE)
        return max(read_s, work / RATE) + 3 * OP_S

    return StepSample(
        layout="q8_0",
        kv_dtype="bf16",
        is_cached=is_cached,
        num_streams=streams,
        num_new=new,
        depth=depth,
        vocab_size=VOCABULARY,
        width=width,
        group=GROUPS[width],
        read_bytes_per_s=READ,
        peak_per_s=PEAK,
        products=Work(product_s(operations, num_bytes), num_bytes, operations, 3),
        small=Work(product_s(small_operations, num_bytes / 8), num_bytes / 8, small_operations, 3),
        head=Work(),
        attention=Work(attention_s, 4e3 * streams * keys, attended, 3),
        rows=Work(20 * 2e-7 + rows * 1e-6, rows * 1e4, rows * 1e3, 20),
        python_s=PYTHON_S + streams * SEQUENCE_S if with_engine else None,
        sampling_s=streams * VOCABULARY * LOGIT_S if with_engine else None,
    )


def _samples() -> Iterator[StepSample]:
    for is_cached, width in ((True, 256), (True, 512), (False, 1536)):
        for streams in (1, 2, 6, 24, 48):
            yield _sample(is_cached=is_cached, width=width, streams=streams, new=1, depth=SHALLOW)
        yield _sample(is_cached=is_cached, width=width, streams=1, new=96, depth=0)
    for width, depth in ((256, SHALLOW), (256, 512), (512, SHALLOW), (512, 512)):
        yield _sample(is_cached=True, width=width, streams=CACHED_STREAMS, new=1, depth=depth)
    yield _sample(is_cached=False, width=1536, streams=1, new=1, depth=3000)
    yield _sample(is_cached=False, width=1536, streams=1, new=96, depth=1024)
    for streams in (1, 32):
        yield _sample(is_cached=True, width=512, streams=streams, new=1, depth=SHALLOW, with_engine=True)


def test_known_laws_are_found_again() -> None:
    efficiency = fit(list(_samples()), "test")
    assert efficiency.bandwidth[""] == pytest.approx(SHARE, rel=0.06)
    assert efficiency.product_op_s == pytest.approx(OP_S, rel=0.2)
    assert efficiency.attention_keys == pytest.approx(EXTRA_KEYS, rel=0.05)
    assert efficiency.attention_rates["bf16"].at(1) == pytest.approx(ATTENTION_RATE, rel=0.01)
    assert efficiency.attention_groups["bf16"] == (4, pytest.approx(KEY_SHARE, rel=0.01))
    assert efficiency.sequence_s == pytest.approx(SEQUENCE_S)
    assert efficiency.logit_s == pytest.approx(LOGIT_S)
    assert efficiency.step_s == pytest.approx(PYTHON_S)
    for width in (256, 512, 700, 1536, 4096):
        curve = efficiency.rates["q8_0"].at_width(width)
        assert curve.at(48) == pytest.approx(RATE, rel=0.05)
    assert efficiency.is_measured


def test_one_round_in_a_quiet_moment_promises_nothing() -> None:
    """Overheads are those of the median round."""
    quick = [
        replace(one, python_s=one.python_s / 2, rows=replace(one.rows, seconds=one.rows.seconds / 2))
        for one in _samples()
        if one.python_s is not None
    ]
    assert len(quick) == 2
    usual, hopeful = fit(list(_samples()), "test"), fit([*_samples(), *_samples(), *quick], "test")
    assert (hopeful.step_s, hopeful.op_s) == (pytest.approx(usual.step_s), pytest.approx(usual.op_s))


def test_requests_are_measured_on_a_real_engine() -> None:
    """No figures of this machine are asserted: a clock that stands still finds nothing, and pauses are taken."""
    pauses: list[float] = []
    found = measure_requests(CpuBackend(num_threads=1), lambda: 0.0, pauses.append)
    assert found == RequestCosts(0.0, 0.0, 0.0)
    assert pauses == [PAUSE_S] * WAKING_ROUNDS


def test_samples_of_one_kind_are_refused() -> None:
    with pytest.raises(ConfigError, match="caches"):
        fit([one for one in _samples() if one.is_cached], "test")


def test_narrow_groups_of_query_heads_are_slower_and_wide_ones_faster() -> None:
    efficiency = replace(fit(list(_samples()), "test"), bandwidth={"": 1e9}, kv_bandwidth=1e9)
    machine = replace(perfect_machine(), efficiency=efficiency)

    def attention_s(num_kv_heads: int) -> float:
        spec = replace(preset_spec("llama-3.2-1b"), num_kv_heads=num_kv_heads)
        model = step_model(spec, machine, Deployment())
        return model.seconds(8, 20_000) - model.seconds(8, 10_000)

    assert attention_s(32) == pytest.approx(attention_s(8) * (1 + KEY_SHARE * (1 - 1 / 4)), rel=1e-3)
    assert attention_s(4) < attention_s(8)


def test_a_slower_clock_slows_what_is_measured_in_seconds_of_arithmetic() -> None:
    efficiency = fit(list(_samples()), "test")
    half = efficiency.at_clock(0.5)
    assert half.rates["q8_0"].at_width(512).at(8) == efficiency.rates["q8_0"].at_width(512).at(8) / 2
    assert half.op_s == 2 * efficiency.op_s
    assert half.bandwidth == efficiency.bandwidth


def test_threads_between_measured_numbers_go_in_proportion() -> None:
    efficiency = replace(fit(list(_samples()), "test"), threads={1: (0.3, 0.6), 2: (0.55, 0.9)})
    machine = replace(perfect_machine(), efficiency=efficiency, num_cores=4)
    assert machine.with_threads(1) == (0.3, 0.6)
    assert machine.with_threads(3) == (pytest.approx((0.55 + 1) / 2), pytest.approx(0.95))
    assert machine.with_threads(4) == machine.with_threads(None) == (1.0, 1.0)


def test_rates_between_widths_lie_between() -> None:
    rates = WidthRates((256, 1024), (RateCurve((1, 8), (1e9, 2e9)), RateCurve((1, 8), (3e9, 4e9))))
    assert 1e9 < rates.at_width(512).at(1) < 3e9
    assert rates.at_width(64).at(100) == 2e9
    assert rates.at_width(9999).at(1) == 3e9
    assert rates.at_width(1024).at(4.5) == 3.5e9


def test_a_calibration_is_kept_for_this_machine_and_damage_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VIVACE_CACHE", str(tmp_path))
    backend = CpuBackend(num_threads=1)
    assert load_calibration(backend) is None
    calibration = calibration_of(backend, list(_samples()), 0.0)
    save_calibration(backend, calibration)
    kept = load_calibration(backend)
    assert kept is not None
    assert kept.efficiency.rates["q8_0"].widths == (256, 512, 1536)
    path = calibration_path(backend)
    whole = path.read_bytes()
    for damaged in (b"", b"[]", whole[:-20], whole.replace(b'"kv_bandwidth":', b'"kv_bandwidth":-')):
        path.write_bytes(damaged)
        assert load_calibration(backend) is None
    other = CpuBackend(num_threads=2)
    path.write_bytes(whole)
    assert load_calibration(other) is None
