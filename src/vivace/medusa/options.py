"""What a training of Medusa heads is asked for."""

from __future__ import annotations

import math
from dataclasses import dataclass

from vivace.core.errors import ConfigError
from vivace.models.medusa import MAX_HEADS, MAX_TREE_NODES


@dataclass(frozen=True, slots=True)
class MedusaOptions:
    """`num_sequences` of `sequence_len` tokens are made from the data: `prompt_len` tokens of it and, with
    `self_distill`, the model's own continuation; without, the text's. Heads learn what follows.

    With `sees_token` heads see the token behind the state, which is drawn when they guess.

    Continuations take turns in `temperatures`. Heads that saw one alone are poor at the other: of greedy text the
    first guess was right in 71% after greedy text and in 42% after text of 0.7; of the latter in 18% and 21%."""

    num_heads: int = 4
    num_sequences: int = 256
    sequence_len: int = 256
    prompt_len: int = 32
    self_distill: bool = True
    sees_token: bool = True
    temperatures: tuple[float, ...] = (0.0, 0.7)
    steps: int = 600
    batch: int = 512  # positions of a step
    learning_rate: float | None = None  # default: by the model's width
    tree_size: int = 63
    seed: int = 0

    def __post_init__(self) -> None:
        limits = {"num_heads": MAX_HEADS, "tree_size": MAX_TREE_NODES, "num_sequences": 1 << 20, "steps": 1 << 20}
        for name in ("num_heads", "num_sequences", "sequence_len", "prompt_len", "steps", "batch", "tree_size"):
            value, limit = getattr(self, name), limits.get(name, 1 << 24)
            if not 1 <= value <= limit:
                raise ConfigError(f"{name} must be from 1 to {limit}, not {value}")
        if self.num_sequences < 2:
            raise ConfigError("num_sequences must be at least 2: one is kept to measure on")
        if self.prompt_len + self.num_heads + 1 > self.sequence_len:
            raise ConfigError(
                f"sequence_len {self.sequence_len} leaves nothing to learn for {self.num_heads} heads after a prompt "
                f"of {self.prompt_len} tokens"
            )
        rate = self.learning_rate
        if rate is not None and not (math.isfinite(rate) and rate > 0):
            raise ConfigError(f"learning_rate must be above 0, not {self.learning_rate}")
        if not self.temperatures or not all(0 <= temperature <= 2 for temperature in self.temperatures):
            raise ConfigError(f"temperatures must be from 0 to 2, not {self.temperatures}")
        if self.seed < 0:
            raise ConfigError(f"seed must be 0 or more, not {self.seed}")

    def peak_learning_rate(self, hidden_size: int) -> float:
        """Adam moves every element by the rate, and what a row of W adds up grows with its width: 0.01 and 0.02 were
        best at 256 and 64, the paper's 1e-3 suits thousands."""
        return 0.16 / math.sqrt(hidden_size) if self.learning_rate is None else self.learning_rate
