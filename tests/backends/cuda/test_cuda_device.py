"""Devices that are not there, do not fit, or are chosen: what the user is told. torch's answers are replaced."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from vivace.backends.cuda import device as device_module
from vivace.backends.cuda.backend import CudaBackend
from vivace.backends.cuda.device import facts, open_device, running_on
from vivace.core.config import EngineConfig
from vivace.core.errors import ConfigError, EngineError
from vivace.engine import backend as choosing
from vivace.engine.backend import make_backend
from vivace.engine.resolve import resolve
from vivace.models.presets import preset_spec


def pretend(
    monkeypatch: pytest.MonkeyPatch,
    *,
    cuda: str | None = "12.8",
    available: bool = True,
    names: tuple[str, ...] = ("H100",),
    capability: tuple[int, int] = (9, 0),
) -> None:
    """A machine with these devices, as torch describes it."""

    def init() -> None:
        raise RuntimeError("The NVIDIA driver on your system is too old (found version 11040).\nMore of it.")

    answers = SimpleNamespace(
        is_available=lambda: available,
        init=init,
        device_count=lambda: len(names),
        get_device_name=lambda one: names[one if isinstance(one, int) else one.index],
        get_device_capability=lambda _: capability,
        mem_get_info=lambda _: (60 << 30, 80 << 30),
        empty_cache=lambda: None,
    )
    version = SimpleNamespace(cuda=cuda)
    shown = SimpleNamespace(cuda=answers, version=version, __version__="2.13.0", device=torch.device)
    monkeypatch.setattr(device_module, "torch", shown)


def test_a_build_without_cuda_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, cuda=None)
    with pytest.raises(ConfigError, match=r"this torch build \(2\.13\.0\) has no CUDA; install one"):
        open_device("cuda")


def test_a_driver_that_does_not_fit_is_quoted(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, available=False)
    with pytest.raises(ConfigError, match=r"for CUDA 12\.8 finds no device .* driver on your system is too old"):
        open_device("cuda:0")


def test_an_index_that_does_not_exist_lists_those_that_do(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, names=("H100", "A100"))
    assert open_device("cuda:1") == torch.device("cuda", 1)
    with pytest.raises(ConfigError, match="cuda:2 does not exist; this machine has cuda:0 H100, cuda:1 A100"):
        open_device("cuda:2")


def test_a_device_without_bfloat16_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, names=("T4",), capability=(7, 5))
    with pytest.raises(ConfigError, match=r"T4 of compute capability 7\.5; .* needs 8\.0 or newer"):
        open_device("cuda")


def test_facts_of_a_device(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch)
    found = facts(open_device("cuda"))
    assert found is not None
    assert (found.name, found.capability, found.memory_bytes, found.cuda_version) == ("H100", "9.0", 80 << 30, "12.8")
    assert facts(torch.device("cpu")) is None


@pytest.mark.parametrize("device", ["gpu", "cuda:", "cuda:-1", "CUDA", "cpu:0"])
def test_names_of_devices(device: str) -> None:
    with pytest.raises(ConfigError, match="auto, cpu, cuda or cuda:N"):
        EngineConfig(device=device)


@pytest.mark.parametrize("share", [0.0, -1.0, 1.5, float("nan")])
def test_shares_of_memory(share: float) -> None:
    with pytest.raises(ConfigError, match="gpu_memory_utilization"):
        EngineConfig(gpu_memory_utilization=share)


def test_the_cpu_backend_does_not_run_on_cuda() -> None:
    with pytest.raises(ConfigError, match="leave out --backend"):
        EngineConfig(backend="cpu", device="cuda:1")


def test_auto_says_why_there_is_no_gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(choosing, "DRIVER_FILES", (tmp_path / "nvidiactl",))
    backend, choice = make_backend(EngineConfig())
    assert (backend.name, choice.value, choice.reason) == ("cpu", "cpu", "this machine has no NVIDIA driver")
    (tmp_path / "nvidiactl").touch()
    monkeypatch.setattr(choosing, "find_spec", lambda _: None)
    assert "vivace[gpu]" in make_backend(EngineConfig())[1].reason
    with pytest.raises(ConfigError, match=r"needs torch: pip install 'vivace\[gpu\]'"):
        make_backend(EngineConfig(device="cuda"))


def test_auto_takes_a_gpu_that_fits_and_passes_one_that_does_not(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(choosing, "DRIVER_FILES", (tmp_path,))
    pretend(monkeypatch)
    backend, choice = make_backend(EngineConfig())
    assert (backend.name, choice.value) == ("cuda", "cuda")
    assert choice.reason == "a GPU and the gpu extra are there"
    pretend(monkeypatch, capability=(7, 5))
    backend, choice = make_backend(EngineConfig())
    assert (backend.name, choice.value) == ("cpu", "cpu")
    assert "compute capability 7.5" in choice.reason
    assert make_backend(EngineConfig(device="cpu"))[1].reason == "as asked"
    with pytest.raises(ConfigError, match="compute capability"):
        make_backend(EngineConfig(device="cuda"))


def test_caches_of_float8_are_for_gpus() -> None:
    config = EngineConfig(kv_cache_dtype="fp8", device="cpu")  # type: ignore[arg-type]
    assert config.kv_cache_dtype == "fp8_e4m3"
    with pytest.raises(ConfigError, match="use int8_per_token_head, which is as small"):
        make_backend(config)


def test_the_kv_pool_takes_what_the_share_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    """80 GiB, 60 free: a share of 0.9 leaves 8 for a step's values, so 52 are for the pool."""
    backend = CudaBackend("cpu")
    assert backend.free_bytes(0.9) is None
    backend.device = torch.device("cuda", 0)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (60 << 30, 80 << 30))
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    free = backend.free_bytes(0.9)
    assert free is not None
    assert abs(free - (52 << 30)) < 1 << 20
    assert backend.free_bytes(0.1) == 0
    config = EngineConfig(load_format="dummy", config="llama-3.2-1b", max_num_seqs=4096)
    spec = preset_spec("llama-3.2-1b")
    resolved = resolve(config, spec, weights_are_f32=False, available_bytes=free, kv_share=1.0)
    block_bytes = spec.num_layers * spec.num_kv_heads * spec.head_dim * 16 * 2 * 2
    assert resolved.num_kv_blocks == free // block_bytes
    reason = next(one.reason for one in resolved.choices if one.name == "num_kv_blocks")
    assert reason == "100% of the 52.0 GiB of free memory"


def test_an_allocation_that_fails_names_the_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    backend = CudaBackend("cpu")
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (1 << 30, 80 << 30))
    expected = r"weights takes 2\.00 GiB, and cpu has 1\.00 of 80\.0 GiB free"
    with pytest.raises(ConfigError, match=expected), backend._memory_for("weights", 2 << 30):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")


def test_a_step_that_does_not_fit_names_the_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (1 << 29, 80 << 30))
    monkeypatch.setattr(torch.cuda, "device", nullcontext)
    expected = r"cuda:0 is out of memory in a step: 0\.50 of 80\.0 GiB are free; lower gpu_memory_utilization"
    with pytest.raises(EngineError, match=expected), running_on(torch.device("cuda", 0)):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")
