"""What a scenario draws from."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from vivace.bench.traffic.prompt_tree import PromptTree


@dataclass(frozen=True, slots=True)
class Setting:
    """Texts, random numbers and the context that prompt and answer share. `think_s`: the user's mean pause before
    another turn, None for the scenario's own; `prompt_len`, `output_len`: fixed lengths, None for its own."""

    tree: PromptTree
    random: Random
    max_model_len: int
    think_s: float | None = None
    prompt_len: int | None = None
    output_len: int | None = None

    def pause_s(self, default: float) -> float:
        """A pause of exponential length."""
        mean = default if self.think_s is None else self.think_s
        return self.random.expovariate(1 / mean) if mean > 0 else 0.0
