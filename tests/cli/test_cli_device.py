"""`vivace doctor` and `vivace profile` over the CUDA backend, on torch's CPU device with made up ceilings."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from command_run import Vivace

torch = pytest.importorskip("torch", reason="the CUDA backend computes with torch")

from vivace.backends.cuda.backend import CudaBackend  # noqa: E402
from vivace.cli.evaluate import _bounded  # noqa: E402
from vivace.core.config import EngineConfig  # noqa: E402
from vivace.ops.backend import MeasuredCeilings  # noqa: E402

DEVICE = ("--backend", "cuda", "--device", "cpu")
CEILINGS = MeasuredCeilings(3.1e12, {"f32": 5.1e13, "bf16": 7.9e14, "fp8": 1.4e15})


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[CudaBackend]:
    """Ceilings as of a GPU; every wait for the device."""
    waited: list[CudaBackend] = []
    monkeypatch.setattr(CudaBackend, "measure_ceilings", lambda _: CEILINGS)
    monkeypatch.setattr(CudaBackend, "synchronize", lambda backend: waited.append(backend))
    return waited


@pytest.mark.usefixtures("waits")
def test_doctor_tells_what_the_device_reaches(vivace: Vivace, stories: str) -> None:
    report = json.loads(vivace("doctor", stories, *DEVICE, "--quantization", "bf16", "--json").stdout)
    ceilings = report["ceilings"]
    assert ceilings["read_gb_per_s"]["value"] == 3100.0
    assert (ceilings["bf16_gop_per_s"]["value"], ceilings["fp8_gop_per_s"]["value"]) == (790_000, 1_400_000)
    assert "threads" not in ceilings
    assert report["memory"]["decode_limit_tokens_per_s"]["value"] > 0
    assert "kernels" in report["device"]
    assert report["kernels"]


def test_profile_waits_for_the_device_and_shares_its_ceilings(
    vivace: Vivace, stories: str, waits: list[CudaBackend]
) -> None:
    small = ("--streams", "2", "--prompt-len", "12", "--depth", "8", "--repeats", "2")
    record = json.loads(vivace("profile", stories, *DEVICE, "--quantization", "bf16", *small, "--json").stdout)
    assert len(record["phases"]) == 3
    assert len(waits) > 3 * 2  # each step that was timed, and those of the engine
    for phase in record["phases"]:
        assert phase["ceilings"]["gop_per_s"]["bf16"] == 790_000
        groups = {group["role"]: group for group in phase["groups"]}
        assert {"qkv", "o", "gate_up", "down", "lm_head", "attention", "norms"} <= set(groups)
        assert groups["qkv"]["bound"] in ("memory", "bf16")
        assert 0 < groups["qkv"]["share_of_ceiling"] < 1
        assert phase["barrier_us"] is None


def test_an_evaluation_leaves_room_for_the_other_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU each of two pools is a share of what is free, and rows of logits are few at a time."""
    config = EngineConfig(max_num_seqs=32)
    assert _bounded(config, is_alone=False) == config
    monkeypatch.setattr("vivace.engine.backend.gpu_backend", lambda _: object())
    monkeypatch.setattr("vivace.engine.backend.free_memory_bytes", lambda _: 20 << 30)
    bounded = _bounded(config, is_alone=False)
    assert (bounded.kv_cache_memory_bytes, bounded.max_num_batched_tokens) == (3 << 30, 512)
    alone = _bounded(config, is_alone=True)
    assert (alone.kv_cache_memory_bytes, alone.max_num_batched_tokens) == (None, 512)
    asked = EngineConfig(num_kv_blocks=10, max_num_batched_tokens=300)
    assert _bounded(asked, is_alone=False) == asked
