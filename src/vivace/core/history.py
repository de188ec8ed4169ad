"""What happened to a sequence, noted where it happens, for whoever asks why it took so long."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

MAX_NOTED = 32  # chunks and preemptions kept of a sequence; the others are counted

# Why the prefix cache held no more of a prompt:
#   off        the engine runs without it
#   unused     the request wants something of every position (log probabilities, a mean), so all are computed
#   short      no whole block lies before the prompt's last token, which is always computed
#   complete   every whole block before the last token was there
#   different  the nearest cached prompt goes on with another token
#   evicted    the block was there, and was overwritten since
#   salt       nothing was computed under the request's cache salt
#   never      nothing that was computed goes on this way
MissReason = Literal["off", "unused", "short", "complete", "different", "evicted", "salt", "never"]


@dataclass(frozen=True, slots=True)
class PrefixMiss:
    """The first block that the prefix cache did not hold. `position`: of the first token that differs."""

    block: int
    reason: MissReason
    position: int | None = None


@dataclass(frozen=True, slots=True)
class Chunk:
    """Prompt tokens [start, start + num_new) were computed in a step of `num_rows` tokens, planned at `time_s`."""

    start: int
    num_new: int
    num_rows: int
    time_s: float


@dataclass(frozen=True, slots=True)
class Preemption:
    """The sequence lost its KV blocks after so many tokens of output; `num_lost` tokens had been computed.

    `for_itself`: it wanted to grow and came last; else the blocks went to one before it in the order.
    """

    num_output: int
    num_lost: int
    for_itself: bool


@dataclass(slots=True)
class SequenceHistory:
    """Bounded, and untouched by a step that only decodes; guesses are counted with their verification.

    `obstacles` counts the plans in which whoever was first in the queue could not start, by what was short, while
    this one waited: rows (`max_num_seqs`), tokens (of the step), blocks, batch (a static one). `obstacles_before` is
    the scheduler's count when it came; None once it was admitted.
    """

    miss: PrefixMiss | None = None  # at the first admission
    num_prefix_waits: int = 0  # times that it waited for another sequence to compute a common prefix
    obstacles: dict[str, int] = field(default_factory=dict)
    obstacles_before: dict[str, int] | None = None
    chunks: list[Chunk] = field(default_factory=list)
    num_chunks: int = 0
    preemptions: list[Preemption] = field(default_factory=list)
    num_guessed: int = 0
    num_accepted: int = 0

    def note_chunk(self, chunk: Chunk) -> None:
        self.num_chunks += 1
        if len(self.chunks) < MAX_NOTED:
            self.chunks.append(chunk)

    def note_preemption(self, preemption: Preemption) -> None:
        if len(self.preemptions) < MAX_NOTED:
            self.preemptions.append(preemption)
