"""What the planner and the search learn of a GPU, on one that is made up."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from vivace.core.config import EngineConfig
from vivace.engine import backend as engine_backend
from vivace.engine.backend import free_memory_bytes, gpu_backend, gpu_facts
from vivace.ops.backend import MeasuredCeilings
from vivace.optimize.space import TOKENS_A_GPU_STEP, Surroundings, make_space, naive
from vivace.optimize.this_machine import machine_identity, machine_words, measured_machine
from vivace.plan import this_gpu
from vivace.plan.this_machine import this_machine

torch = pytest.importorskip("torch", reason="the CUDA backend computes with torch")

from vivace.backends.cuda.backend import CudaBackend  # noqa: E402
from vivace.backends.cuda.device import DeviceFacts  # noqa: E402

GIB = 2**30
FACTS = DeviceFacts("cuda:0", "NVIDIA H100", "9.0", 80 * GIB, 60 * GIB, "2.13", "13.0")
CEILINGS = MeasuredCeilings(3e12, {"f32": 5e13, "bf16": 8e14, "int8": 1.5e15})
ON_GPU = EngineConfig(device="cuda")


class MadeUpGPU(CudaBackend):
    def __init__(self, device: str = "cuda") -> None:
        super().__init__("cpu")
        self.asked = device

    @property
    def facts(self) -> DeviceFacts:
        return FACTS

    def free_bytes(self, utilization: float) -> int:
        return int(utilization * FACTS.free_bytes)

    def measure_ceilings(self) -> MeasuredCeilings:
        return CEILINGS


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_backend, "_what_a_gpu_lacks", lambda: "")
    monkeypatch.setattr(engine_backend, "_cuda_backend", lambda _, device: MadeUpGPU(device))


def surroundings(num_threads: int | None) -> Surroundings:
    return Surroundings(True, 8_000_000_000, 128, num_threads, users=64, longest_tokens=2048)


@pytest.mark.usefixtures("gpu")
def test_the_machine_is_the_gpu() -> None:
    for machine in (this_machine(), measured_machine(EngineConfig())):
        assert (machine.kind, machine.title, machine.memory_bytes) == ("gpu", "NVIDIA H100", 80 * GIB)
        assert (machine.read_bytes_per_s, machine.peak("bf16")) == (3e12, 8e14)
        assert machine.source == "measured here, now"
    identity = machine_identity(EngineConfig())
    assert identity["memory_gib"] == 80
    assert machine_words(identity).startswith("NVIDIA H100, ")
    assert free_memory_bytes(EngineConfig(gpu_memory_utilization=0.5)) == 30 * GIB


def test_without_a_gpu_it_is_the_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_backend, "available_memory_bytes", lambda: 7 * GIB)
    for config in (EngineConfig(device="cpu"), EngineConfig(backend="cpu"), EngineConfig(backend="reference")):
        assert gpu_backend(config) is None
        assert gpu_facts(config) is None
        assert free_memory_bytes(config) == 7 * GIB
    assert this_gpu.gpu_machine(EngineConfig(device="cpu")) is None


def test_torchs_cpu_device_is_no_gpu() -> None:
    config: Any = EngineConfig(backend="cuda", device="cpu")
    assert gpu_backend(config) is None


def test_the_search_on_a_gpu_leaves_threads_alone_and_fills_its_steps() -> None:
    space = make_space(surroundings(None))
    assert space.axes["num_threads"] == (None,)
    assert space.axes["max_num_batched_tokens"] == TOKENS_A_GPU_STEP
    assert naive(surroundings(None)).num_threads is None
    assert {"bf16", "int8", "int4"} <= set(space.axes["quantization"])
    host = make_space(surroundings(8))
    assert host.axes["num_threads"] == (8, 4)
    assert max(host.axes["max_num_batched_tokens"]) < max(TOKENS_A_GPU_STEP)
    assert SimpleNamespace(**host.axes).quantization == space.axes["quantization"]
