"""A sequence is two numbers: tokens computed and tokens wanted. There is no prefill or decode phase."""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field
from enum import Enum
from typing import Literal

from vivace.core.constraint import TokenConstraint
from vivace.core.history import SequenceHistory
from vivace.core.sampling import SamplingParams

Pooling = Literal["mean", "last"]
UNKNOWN = -1  # stands for the last token of a sequence while only the device knows it


class SequenceState(Enum):
    WAITING = "waiting"
    RUNNING = "running"
    FINISHED = "finished"


@dataclass(eq=False, slots=True)
class Sequence:
    """One stream of tokens: a request's prompt and one of its `n` continuations.

    `tokens` holds prompt and output; `num_computed` of them have their keys and values in the cache.
    `block_ids[i]` is the KV block of tokens `[i * block_size, (i + 1) * block_size)`.
    Compared by identity: two requests with equal tokens are different sequences.
    """

    request_id: str
    index: int  # which of the request's n continuations
    tokens: array[int]  # typecode "i"
    num_prompt: int
    params: SamplingParams
    seed: int  # resolved: never None
    arrival: int  # monotonic counter, the FIFO order
    priority: int = 0  # lower runs first
    cache_salt: bytes = b""
    max_len: int = 2**31 - 1  # tokens at which it ends: prompt + max_tokens, bounded by the context window
    stop_ids: frozenset[int] = frozenset()  # token ids that end it once min_tokens are out
    use_prefix_cache: bool = True  # off when logits of cached prompt positions are wanted (prompt_logprobs)
    pooling: Pooling | None = None  # hidden states are wanted instead of tokens
    logits_from: int | None = None  # the raw logits of the prompt's rows from here on are wanted

    state: SequenceState = SequenceState.WAITING
    num_computed: int = 0
    num_cached: int = 0  # prompt tokens found in the prefix cache at (the last) admission
    num_preemptions: int = 0
    block_ids: list[int] = field(default_factory=list)
    block_hashes: list[bytes] = field(default_factory=list)  # chained, of the full blocks hashed so far
    num_registered: int = 0  # full blocks already offered to the prefix index
    num_forks: int = 0  # continuations still to be forked off once the prompt is computed (n - 1 at first)
    constraint: TokenConstraint | None = None  # made when the sequence first samples
    history: SequenceHistory = field(default_factory=SequenceHistory)
    num_speculative: int = 0  # tokens to guess in the next step, if there is room for them
    row: int = -1  # row in the runtime's persistent block-table array while running

    @property
    def num_tokens(self) -> int:
        return len(self.tokens)

    @property
    def num_output(self) -> int:
        return len(self.tokens) - self.num_prompt

    @property
    def num_pending(self) -> int:
        """Tokens whose keys and values are still to be computed."""
        return len(self.tokens) - self.num_computed

    def output_tokens(self) -> list[int]:
        return self.tokens[self.num_prompt :].tolist()
