"""One request of a trace, in the units of this package."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TraceRow:
    """`arrival_s` counts from the trace's own zero. Lengths are tokens as the traced service counted them; an output
    of 0 tokens is a request that failed there.

    `block_hashes` name the prompt's blocks of `block_len` tokens, the last one perhaps shorter: prompts share the
    text of the blocks that their lists have in common from the first on. `token_ids`: the prompt itself, in the
    traced model's vocabulary.
    """

    arrival_s: float
    prompt_len: int
    output_len: int
    block_hashes: tuple[int, ...] | None = None
    block_len: int | None = None
    token_ids: tuple[int, ...] | None = None
