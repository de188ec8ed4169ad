"""What a request, or a whole queue of them, asks of the engine."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Demand:
    """Amounts that can be added up. All but `num_prompt_tokens` and `worst_blocks` are expectations."""

    num_requests: float = 0.0
    num_sequences: float = 0.0
    num_prompt_tokens: float = 0.0
    computed_tokens: float = 0.0  # prompt tokens that the prefix cache does not hold
    new_tokens: float = 0.0  # of all continuations
    prompt_blocks: float = 0.0
    blocks: float = 0.0
    worst_blocks: float = 0.0

    def add(self, other: Demand, factor: float = 1.0) -> None:
        self.num_requests += factor * other.num_requests
        self.num_sequences += factor * other.num_sequences
        self.num_prompt_tokens += factor * other.num_prompt_tokens
        self.computed_tokens += factor * other.computed_tokens
        self.new_tokens += factor * other.new_tokens
        self.prompt_blocks += factor * other.prompt_blocks
        self.blocks += factor * other.blocks
        self.worst_blocks += factor * other.worst_blocks

    def remove(self, other: Demand) -> None:
        self.add(other, -1.0)
