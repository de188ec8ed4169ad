"""Which implementation of an operation runs: Triton's where it applies, else torch's, and why.

    registry = KernelRegistry(device)
    if registry.takes(AttentionCase("bf16", "bfloat16", 128)):
        ...                              # the kernel's launcher
    registry.explain()                   # what ran, how often, and why not the kernel

Triton's kernels need triton and a CUDA device. Its interpreter (TRITON_INTERPRET=1) runs them anywhere, slowly: for
tests, which say so by `interpreted`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable
from functools import cached_property
from importlib.util import find_spec

import torch

from vivace.backends.cuda.attention_choice import PromptChoice
from vivace.backends.cuda.kernels import limits
from vivace.backends.cuda.kernels.case import AttentionCase, CacheWriteCase, Case, ProductCase
from vivace.core.config import AttentionBackend

SMALLEST_CAPABILITY = (8, 0)  # bfloat16 tensor cores


class KernelRegistry:
    """Answers for one device and counts its answers."""

    def __init__(
        self, device: torch.device, *, interpreted: bool = False, attention: AttentionBackend = "auto"
    ) -> None:
        self._device = device
        self._interpreted = interpreted
        self.attention = attention  # what was asked for
        self.prompts: dict[Hashable, PromptChoice] = {}  # by layers and cache
        self.remarks: dict[str, tuple[str, str]] = {}  # by what was chosen: the choice, and why
        self.is_tried = False
        self._reasons: dict[Case, str | None] = {}
        self._counts: Counter[Case] = Counter()

    @cached_property
    def complaint(self) -> str | None:
        """Why no kernel runs at all; None where they do."""
        return None if self._interpreted else _complaint(self._device)

    def set_trial(self, complaint: str | None) -> None:
        """What came of a first kernel: None if it ran."""
        self.is_tried = True
        self.complaint = self.complaint or complaint
        self._reasons.clear()

    def takes(self, case: Case) -> bool:
        """Whether the Triton kernel runs this operation; counts it."""
        self._counts[case] += 1
        return self.reason(case) is None

    def reason(self, case: Case) -> str | None:
        """Why torch's operations run instead; None where the kernel does."""
        if case not in self._reasons:
            self._reasons[case] = self.complaint or self._unwanted(case) or supports(case)
        return self._reasons[case]

    def _unwanted(self, case: Case) -> str | None:
        return "as asked" if isinstance(case, AttentionCase) and self.attention == "torch" else None

    def explain(self) -> list[str]:
        """A line for each operation asked about: the implementation, how often, and the reason."""
        counts: Counter[tuple[str, str | None]] = Counter()
        for case, count in self._counts.items():
            counts[case.op, self.reason(case)] += count
        lines = []
        for (op, reason), count in sorted(counts.items(), key=str):
            choice = "triton" if reason is None else f"torch ({reason})"
            lines.append(f"{op}: {choice}, {count} times")
        return lines


def supports(case: Case) -> str | None:
    """None, or why the kernel does not apply, whatever the device."""
    match case:
        case AttentionCase():
            return limits.attention(case)
        case CacheWriteCase():
            return limits.cache_write(case)
        case ProductCase():
            return limits.product(case)
        case _:
            return limits.rows(case)


def _complaint(device: torch.device) -> str | None:
    if find_spec("triton") is None:
        return "triton is not installed"
    if device.type != "cuda":
        return f"Triton compiles for CUDA devices, not for torch's {device.type} device"
    capability = torch.cuda.get_device_capability(device)
    if capability < SMALLEST_CAPABILITY:
        return f"compute capability {capability[0]}.{capability[1]}; the kernels need 8.0"
    return None
