"""Profiles of a small model, with clocks and ceilings that are made up."""

from __future__ import annotations

from itertools import count
from pathlib import Path

import numpy as np
import pytest

from vivace.bench.ceilings import Ceilings
from vivace.bench.op_cost import OpCost
from vivace.bench.profile import PhaseProfile, group_ops, middle_mean, profile
from vivace.bench.profile_step import Phase, profile_program, step_inputs
from vivace.bench.verdict import verdict
from vivace.core.config import EngineConfig
from vivace.engine.loader import LoadedEngine, load_engine

CEILINGS = Ceilings(10.0, {"f32": 100.0, "int8": 400.0})
PHASES = [Phase("decode, 1 stream", 1, 1, 20), Phase("decode, 3 streams", 3, 1, 20), Phase("prefill", 1, 24, 5)]


@pytest.fixture(scope="module", params=["cpu", "reference"])
def loaded(request: pytest.FixtureRequest, shared: Path) -> LoadedEngine:
    model = str(shared / "weights" / "stories260K")
    return load_engine(EngineConfig(model=model, max_num_seqs=4, max_model_len=64, backend=request.param))


def test_a_group_is_the_sum_of_its_operations_beside_its_ceilings() -> None:
    costs = [
        OpCost("qkv", 10e6, 1e6, "int8"),
        OpCost("norms", 1e3, 1e3),
        OpCost("qkv", 30e6, 3e6, "int8"),
        OpCost("down", 1e3, 8e9, "bf16"),
    ]
    down, qkv, norms = group_ops(costs, np.array([2e-3, 1e-6, 6e-3, 0.1]), CEILINGS)
    assert (qkv.role, qkv.num_ops, qkv.seconds, qkv.num_bytes, qkv.operations) == ("qkv", 2, 8e-3, 40e6, 4e6)
    assert qkv.memory_s == pytest.approx(4e-3)
    assert qkv.arithmetic_s == pytest.approx(1e-5)
    assert (qkv.bound, qkv.share_of_ceiling) == ("memory", pytest.approx(0.5))
    # No unit for bfloat16 was measured: float32 does it.
    assert (down.bound, down.share_of_ceiling) == ("f32", pytest.approx(0.8))
    assert norms.role == "norms"
    assert group_ops(costs, np.ones(4), None)[0].bound is None


def test_the_middle_mean_leaves_out_disturbed_steps_and_keeps_sums() -> None:
    steps = np.array([[1.0, 2.0], [1.5, 2.5], [1.0, 3.0], [50.0, 2.0]])
    mean = middle_mean(steps)
    np.testing.assert_allclose(mean, [1.25, 2.75])
    assert mean.sum() == pytest.approx(np.mean([4.0, 4.0]))


def test_groups_and_the_rest_add_up_to_the_timed_step(loaded: LoadedEngine) -> None:
    ticks = count()
    profiles = profile(
        loaded,
        PHASES,
        repeats=4,
        clock=lambda: 1e-3 * next(ticks),
        probe=lambda: CEILINGS,
        barrier=lambda: 1e-6,
    )
    for one, phase in zip(profiles, PHASES, strict=True):
        assert one.phase == phase
        assert one.step_s == pytest.approx(1e-3)  # one tick between the readings before and after
        record = one.record()
        assert sum(group["ms"] for group in record["groups"]) + record["between_ms"] == pytest.approx(
            record["timed_ms"]
        )
        assert sum(group["share"] for group in record["groups"]) == pytest.approx(
            1 - record["between_ms"] / record["timed_ms"]
        )
        layers = loaded.spec.num_layers
        counts = {group["role"]: group["num_ops"] for group in record["groups"]}
        assert (counts["qkv"], counts["attention"], counts["lm_head"]) == (layers, layers, 1)
        assert counts["norms"] == 2 * layers + 1
        assert one.engine.python_s > 0
        assert verdict(one)[0].startswith(phase.name)


def test_a_profile_without_ceilings_says_so(loaded: LoadedEngine) -> None:
    ticks = count()
    (one,) = profile(loaded, PHASES[:1], repeats=1, clock=lambda: float(next(ticks)), probe=None, barrier=None)
    assert one.record()["ceilings"] is None
    assert one.record()["barrier_us"] is None
    assert "no ceilings" in verdict(one)[0]


def test_timed_steps_compute_what_plain_ones_do(loaded: LoadedEngine) -> None:
    program = profile_program(loaded, PHASES)
    for phase in PHASES:
        inputs = step_inputs(phase, loaded.kv_spec.block_size, loaded.spec.vocab_size)
        expected = np.array(program.executable.run(inputs))
        seconds = program.executable.run_timed(inputs)
        assert seconds.shape == (len(program.ops) + 1,)
        assert (seconds >= 0).all()
        assert np.isfinite(expected).all()
        np.testing.assert_array_equal(np.array(program.executable.run(inputs)), expected)


def test_the_verdict_names_the_bottleneck() -> None:
    def made_up(costs: list[OpCost], seconds: list[float]) -> PhaseProfile:
        groups = group_ops(costs, np.array(seconds), CEILINGS)
        from_engine = type("Engine", (), {"python_s": 1e-4, "sampling_s": 0.0, "total_s": 1e-4})()
        return PhaseProfile(PHASES[0], groups, 1e-6, sum(seconds), from_engine, 1e-6, 10, CEILINGS)

    memory = verdict(made_up([OpCost("qkv", 90e6, 1e6, "int8"), OpCost("norms", 0, 0)], [10e-3, 1e-3]))
    assert memory[0] == "decode, 1 stream is bound by memory: 8.2 GB/s, 82% of a plain read (10.0 GB/s)"
    assert any(line.startswith("lost in qkv: 1.00 ms") for line in memory)
    arithmetic = verdict(made_up([OpCost("qkv", 1e6, 3.2e9, "int8")], [10e-3]))
    assert arithmetic[0] == "decode, 1 stream is bound by int8 arithmetic: 320 GOP/s, 80% of the peak (400)"
    assert "10 barriers of 1.0 us" in arithmetic[-1]
