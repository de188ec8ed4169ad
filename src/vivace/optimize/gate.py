"""Who may win: bars on quality and memory, and the proof that serving tricks change no text."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

from vivace.core.errors import ConfigError
from vivace.core.nearest_name import nearest_name
from vivace.optimize.candidate import Candidate
from vivace.optimize.measurement import Interaction, Quality

DEFAULT_KL = 0.02  # nats a token: what good 4-bit weights cost
BAR_NAMES = ("kl", "ppl", "task")
UNITS = {"": 1, "B": 1, "K": 1 << 10, "KIB": 1 << 10, "M": 1 << 20, "MIB": 1 << 20, "G": 1 << 30, "GIB": 1 << 30}
UNITS |= {"KB": 10**3, "MB": 10**6, "GB": 10**9}


@dataclass(frozen=True, slots=True)
class QualityBar:
    """The most that may be lost: nats of KL divergence, a share of perplexity, points of every task's accuracy."""

    kl: float | None = DEFAULT_KL
    perplexity: float | None = None
    task_points: float | None = None

    @classmethod
    def parse(cls, entries: Iterable[str]) -> QualityBar:
        """From `kl:0.02`, `ppl:1%` and `task:1` (points), any of them. Raises `ConfigError`."""
        bars: dict[str, float] = {}
        for entry in " ".join(entries).replace(",", " ").split():
            name, _, text = entry.partition(":")
            if name not in BAR_NAMES:
                raise ConfigError(
                    f"unknown measure of quality {name!r}{nearest_name(name, BAR_NAMES)} (as in kl:0.02)"
                )
            bars[name] = _amount(name, text)
        if not bars:
            return cls()
        return cls(bars.get("kl"), bars.get("ppl"), bars.get("task"))

    def __str__(self) -> str:
        parts = (
            None if self.kl is None else f"kl:{self.kl:g}",
            None if self.perplexity is None else f"ppl:{100 * self.perplexity:g}%",
            None if self.task_points is None else f"task:{self.task_points:g}",
        )
        return " ".join(part for part in parts if part)

    def objection(self, quality: Quality) -> str | None:
        """Why this quality is too little; None where it passes. A figure that is no number fails every bar."""
        if self.kl is not None and not quality.kl <= self.kl:
            return f"KL divergence {quality.kl:.3g} nats a token, allowed {self.kl:g}"
        if self.perplexity is not None and not quality.perplexity_change <= self.perplexity:
            return f"perplexity {100 * quality.perplexity_change:+.2f}%, allowed {100 * self.perplexity:+g}%"
        if self.task_points is not None:
            for name, points in quality.tasks.items():
                if not points <= self.task_points:
                    return f"{name} loses {points:.2f} points of accuracy, allowed {self.task_points:g}"
        return None

    @property
    def least_agreement(self) -> float:
        """Share of equal best tokens that the bar leaves: by Pinsker's inequality a divergence of k nats moves at
        most sqrt(k / 2) of the probability, and each part that moves counts for the best token and its rival."""
        return 1 - 2 * math.sqrt((DEFAULT_KL if self.kl is None else self.kl) / 2)


@dataclass(slots=True)
class Gate:
    """All bars together. Remembers what it refused, with the reason."""

    bar: QualityBar
    max_memory_bytes: int | None = None
    refused: dict[Candidate, str] = field(default_factory=dict)

    def allows_memory(self, candidate: Candidate, memory_bytes: int) -> bool:
        if self.max_memory_bytes is None or memory_bytes <= self.max_memory_bytes:
            return True
        needs, allowed = mebibytes(memory_bytes), mebibytes(self.max_memory_bytes)
        return self._refuse(candidate, f"weights and KV pool take {needs} MiB, allowed {allowed}")

    def allows_quality(self, candidate: Candidate, quality: Quality | None) -> bool:
        """None passes: there is no quality to lose."""
        objection = None if quality is None else self.bar.objection(quality)
        return objection is None or self._refuse(candidate, objection)

    def allows_interaction(self, candidate: Candidate, found: Interaction) -> bool:
        if found.num_equal < found.num_probes:
            differ = found.num_probes - found.num_equal
            reason = (
                f"{differ} of {found.num_probes} greedy texts differ from those of the same weights and cache alone"
            )
            return self._refuse(candidate, reason)
        if not found.agreement >= self.bar.least_agreement:
            reason = f"its cache agrees with a 16-bit one on {100 * found.agreement:.1f}% of greedy tokens"
            return self._refuse(candidate, f"{reason}, needed {100 * self.bar.least_agreement:.1f}%")
        return True

    def _refuse(self, candidate: Candidate, reason: str) -> bool:
        self.refused[candidate] = reason
        return False


def _amount(name: str, text: str) -> float:
    is_percent = text.endswith("%")
    try:
        value = float(text.removesuffix("%"))
    except ValueError:
        raise ConfigError(f"a bar on quality is kl:0.02, ppl:1% or task:1, not {name}:{text}") from None
    if not (math.isfinite(value) and value >= 0):
        raise ConfigError(f"the bar {name} must be 0 or more, not {text!r}")
    if name == "ppl" and is_percent:
        return value / 100
    if name == "kl" and is_percent:
        raise ConfigError(f"KL divergence is in nats, as in kl:0.02, not {text!r}")
    return value


def mebibytes(num_bytes: float) -> str:
    """Three figures or more."""
    value = num_bytes / 2**20
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def parse_bytes(text: str) -> int:
    """`2GiB`, `800M`, `1500000000`. Raises `ConfigError`."""
    number = text.strip().rstrip("BKMGibkmg")
    unit = text.strip()[len(number) :].upper()
    try:
        num_bytes = int(float(number) * UNITS[unit])
    except (ValueError, KeyError, OverflowError):
        raise ConfigError(f"memory is a number of bytes such as 2GiB or 800M, not {text!r}") from None
    if num_bytes < 1:
        raise ConfigError(f"memory must be above 0 bytes, not {text!r}")
    return num_bytes
