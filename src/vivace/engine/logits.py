"""The raw logits of a prompt, handed out as its chunks are computed: for measurements over the whole vocabulary.

Shape letters: S rows, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from vivace.ops.backend import Float32Array


@dataclass(frozen=True, slots=True)
class LogitsReader:
    """Calls `read(start, rows_SV)` for the prompt's rows from position `first` on, chunk by chunk.

    Row i predicts token i + 1; the prompt's last row predicts none of its tokens and is not handed out. `rows_SV` is
    valid until the engine's next step. A prompt that was preempted is computed, and handed out, again.
    """

    first: int
    read: Callable[[int, Float32Array], None]


@dataclass(frozen=True, slots=True)
class PromptLogits:
    """Logits [S, V] of prompt number `index` from position `start`; valid until the next are asked for."""

    index: int
    start: int
    rows_SV: Float32Array
