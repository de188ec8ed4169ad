"""What a benchmark asks of the engine: random prompts of one length, answers of one length."""

from __future__ import annotations

import random
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Workload:
    """`num_requests` streams that arrive together, each of `prompt_len` tokens in and `output_len` tokens out."""

    num_requests: int
    prompt_len: int
    output_len: int

    def prompts(self, vocab_size: int, seed: int) -> list[list[int]]:
        """Random token ids: two seeds share no prefix, so that the prefix cache cannot answer for the engine."""
        source = random.Random(seed)
        return [source.choices(range(vocab_size), k=self.prompt_len) for _ in range(self.num_requests)]
