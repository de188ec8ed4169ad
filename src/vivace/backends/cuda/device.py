"""The device that was asked for: whether it is there, fits, and what it is."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

import torch

from vivace.core.errors import ConfigError, EngineError

DRIVER_VERSION = Path("/sys/module/nvidia/version")
OLDEST_CAPABILITY = (8, 0)  # bfloat16 in tensor cores: A100, RTX 30 and newer


@dataclass(frozen=True, slots=True)
class DeviceFacts:
    """What `vivace doctor` tells of a device."""

    device: str
    name: str
    capability: str
    memory_bytes: int
    free_bytes: int
    torch_version: str
    cuda_version: str
    driver_version: str = ""  # empty where the system does not tell
    triton_version: str = ""  # empty where it is not installed


def open_device(name: str) -> torch.device:
    """`cpu`, `cuda` (the first one) or `cuda:1`. Raises `ConfigError` that says what does not fit."""
    if name == "cpu":
        return torch.device("cpu")
    if torch.version.cuda is None:
        raise ConfigError(
            f"device {name}: this torch build ({torch.__version__}) has no CUDA; install one that has, "
            "as https://pytorch.org/get-started says, or use --device cpu"
        )
    if not torch.cuda.is_available():
        raise ConfigError(
            f"device {name}: torch {torch.__version__} for CUDA {torch.version.cuda} finds no device that it can use "
            f"({_complaint()}); check nvidia-smi and CUDA_VISIBLE_DEVICES, update the driver or install a torch "
            "build for its CUDA version, or use --device cpu"
        )
    index, count = int(name.partition(":")[2] or 0), torch.cuda.device_count()
    if index >= count:
        there = ", ".join(f"cuda:{one} {torch.cuda.get_device_name(one)}" for one in range(count))
        raise ConfigError(f"device {name} does not exist; this machine has {there}")
    capability = torch.cuda.get_device_capability(index)
    if capability < OLDEST_CAPABILITY:
        raise ConfigError(
            f"device {name} is a {torch.cuda.get_device_name(index)} of compute capability "
            f"{_dotted(capability)}; the CUDA backend needs {_dotted(OLDEST_CAPABILITY)} or newer"
        )
    return torch.device("cuda", index)


@contextmanager
def running_on(device: torch.device) -> Iterator[None]:
    """Streams and events are this device's. `EngineError` with the numbers where its memory does not hold a step."""
    if device.type == "cpu":
        yield
        return
    try:
        with torch.cuda.device(device):
            yield
    except torch.cuda.OutOfMemoryError as error:
        free, total = torch.cuda.mem_get_info(device)
        raise EngineError(
            f"{device} is out of memory in a step: {free / 2**30:.2f} of {total / 2**30:.1f} GiB are free; "
            "lower gpu_memory_utilization or max_num_batched_tokens"
        ) from error


def facts(device: torch.device) -> DeviceFacts | None:
    """None for torch's CPU device."""
    if device.type == "cpu":
        return None
    free_bytes, memory_bytes = torch.cuda.mem_get_info(device)
    return DeviceFacts(
        device=str(device),
        name=torch.cuda.get_device_name(device),
        capability=_dotted(torch.cuda.get_device_capability(device)),
        memory_bytes=memory_bytes,
        free_bytes=free_bytes,
        torch_version=torch.__version__,
        cuda_version=str(torch.version.cuda),
        driver_version=driver_version(),
        triton_version=metadata.version("triton") if find_spec("triton") else "",
    )


def driver_version() -> str:
    """Empty where the system does not tell."""
    try:
        return DRIVER_VERSION.read_text().strip()
    except OSError:
        return ""


def _complaint() -> str:
    """Why CUDA does not start, in its own words."""
    try:
        torch.cuda.init()
    except (RuntimeError, AssertionError) as error:
        return str(error).splitlines()[0]
    return "no device is visible"


def _dotted(capability: tuple[int, int]) -> str:
    return f"{capability[0]}.{capability[1]}"
