"""What is asked of an H100, beside what was reached. A share is of the ceilings measured in the same run."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from gpu.ledger import Record

Records = dict[str, dict[str, Record]]


@dataclass(frozen=True, slots=True)
class Target:
    name: str
    wanted: str
    reached: str
    verdict: str


@dataclass(frozen=True, slots=True)
class Wish:
    """A figure of one record: at least `bound`, or with `is_limit` at most."""

    name: str
    section: str
    keys: tuple[str, ...]
    field: str
    bound: float
    is_limit: bool = False

    def target(self, records: Records) -> Target:
        wanted = f"{'at most' if self.is_limit else 'at least'} {self._shown(self.bound)}"
        found = [records.get(self.section, {}).get(key, {}).get(self.field) for key in self.keys]
        values = [value for value in found if isinstance(value, float)]
        if len(values) < len(self.keys):
            return Target(self.name, wanted, "-", "not measured")
        worst = max(values) if self.is_limit else min(values)
        is_met = worst <= self.bound if self.is_limit else worst >= self.bound
        return Target(self.name, wanted, self._shown(worst), "met" if is_met else "MISSED")

    def _shown(self, value: float) -> str:
        is_share = "share" in self.field
        return f"{value:.0%}" if is_share else f"{value:.2f}x"


MIXED = "bf16 192 requests of mixed lengths"
WISHES = (
    Wish("8B decode, 1 stream, bf16", "end-to-end", ("llama-3.1-8b bf16 decode 1",), "bandwidth_share", 0.80),
    Wish("8B decode, 1 stream, int4", "end-to-end", ("llama-3.1-8b int4 decode 1",), "bandwidth_share", 0.65),
    Wish("1B decode, 1 stream, bf16", "end-to-end", ("llama-3.2-1b bf16 decode 1",), "bandwidth_share", 0.80),
    Wish("1B decode, 1 stream, int4", "end-to-end", ("llama-3.2-1b int4 decode 1",), "bandwidth_share", 0.65),
    Wish(
        "attention decode, bf16",
        "kernels",
        ("attention bf16 decode 1 x 16384", "attention bf16 decode 64 x 2048"),
        "share",
        0.80,
    ),
    Wish("attention prefill of 16384, head 128", "kernels", ("attention bf16 prefill 16384",), "share", 0.55),
    Wish(
        "8B decode, 64 streams, over the floor",
        "end-to-end",
        ("llama-3.1-8b bf16 decode 64",),
        "over_floor",
        1.3,
        is_limit=True,
    ),
    Wish("8B throughput beside transformers", "transformers", (f"llama-3.1-8b {MIXED}",), "ratio", 10.0),
    Wish("1B throughput beside transformers", "transformers", (f"llama-3.2-1b {MIXED}",), "ratio", 10.0),
)


def targets(records: Records) -> Iterator[Target]:
    for wish in WISHES:
        yield wish.target(records)
