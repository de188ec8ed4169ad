"""What one run of the benchmark is about: the device, sizes, seed, where results go and when it must end."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from vivace.backends.cuda.backend import CudaBackend

SECTIONS = ("ceilings", "kernels", "equivalence", "end-to-end", "transformers", "trace")


@dataclass(frozen=True, slots=True)
class Setting:
    """`deadline`: of `time.time()`. `is_tiny`: shapes that a test can run. `trace`: a file that is replayed."""

    device: str
    out: Path
    seed: int
    rounds: int = 15
    deadline: float = float("inf")
    is_tiny: bool = False
    is_interpreted: bool = False
    trace: str | None = None
    note: str = ""  # what else a reader of the results should know: the commit

    @property
    def torch_device(self) -> torch.device:
        return torch.device("cuda", torch.cuda.current_device()) if self.device == "cuda" else torch.device("cpu")

    @property
    def engine_options(self) -> dict[str, Any]:
        """Of an engine on this device, whatever the defaults are."""
        return {"backend": "cuda", "device": self.device, "load_format": "dummy", "seed": self.seed % 1000}

    @property
    def left_s(self) -> float:
        return self.deadline - time.time()

    def backend(self) -> CudaBackend:
        return CudaBackend(self.device, interpreted=self.is_interpreted)


@dataclass(frozen=True, slots=True)
class Item:
    """One measurement: its name, which is the same in every run, and what gives its record for JSON. `lasts_s`: about
    how long it takes; it is not begun when less time is left."""

    key: str
    measure: Callable[[], dict[str, Any]]
    lasts_s: float = 5.0
