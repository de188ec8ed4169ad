"""From sequences to the sampler's arrays.

Random numbers come from a counter, not a state: token `position` of continuation `index` under `seed` always draws
the same uniform number, whatever else runs, after a preemption and after a restart.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as Items
from dataclasses import dataclass
from itertools import chain

import numpy as np

from vivace.core.sequence import Sequence
from vivace.ops.backend import (
    NO_MASK,
    NO_MASK_INDEX,
    Float32Array,
    Int32Array,
    SampleInputs,
    UInt32Array,
    UInt64Array,
)
from vivace.ops.random import row_uniforms
from vivace.runtime.token_counts import TokenCounts

Draw = Callable[[UInt64Array, Int32Array, Int32Array], Float32Array]

MOST_COLUMNS = 16  # sets of rows that are remembered: guesses make rows come and go from step to step

_NO_INT = np.zeros(0, np.int32)
_NO_FLOAT = np.zeros(0, np.float32)


@dataclass(slots=True)
class _Columns:
    """The parameter columns of one set of sequences, reused while the batch keeps its members."""

    temperature_S: Float32Array
    top_k_S: Int32Array
    top_p_S: Float32Array
    min_p_S: Float32Array
    repetition_S: Float32Array
    presence_S: Float32Array
    frequency_S: Float32Array
    seed_S: UInt64Array
    index_S: Int32Array
    draws: bool  # at least one row is not greedy
    has_penalties: bool
    has_bias: bool
    has_constraints: bool
    max_logprobs: int | None  # the most that any row asks for


class SamplerInputs:
    """Builds `SampleInputs` for the sequences that sample in a step.

    `draw` gives random numbers by seed, index and position. `constrains`: constraints are kept. A draft model need
    not, for guesses are tried against them afterwards.
    """

    def __init__(self, draw: Draw = row_uniforms, *, constrains: bool = True) -> None:
        self._draw = draw
        self._constrains = constrains
        self._members: list[Sequence] = []
        self._columns = _columns([])
        self._known: dict[tuple[Sequence, ...], _Columns] = {}  # by rows
        self._counts: dict[Sequence, TokenCounts] = {}  # of the last build's penalised rows

    @property
    def max_logprobs(self) -> int | None:
        """The most log probabilities that a row of the last build asks for; None when none does."""
        return self._columns.max_logprobs

    def build(self, sequences: list[Sequence], vocab_size: int, ahead: list[list[int]] | None = None) -> SampleInputs:
        """One row for each sequence, in order; a sequence that forks appears once for each continuation.

        `ahead` are guessed tokens that each row takes for the sequence's own: its numbers are those that the row
        would have if they were.
        """
        if sequences != self._members:  # compared by identity; a steady decode batch skips the rebuild
            self._members = list(sequences)
            self._columns = self._of(tuple(sequences))
            self._counts = {one: self._counts[one] for one in sequences if one in self._counts}
        columns = self._columns
        history = self._history(sequences, ahead) if columns.has_penalties else _no_rows(len(sequences), _NO_INT)
        bias = _bias(sequences, ahead) if columns.has_bias else _no_rows(len(sequences), _NO_FLOAT)
        constrained = columns.has_constraints and self._constrains
        masks = _masks(sequences, vocab_size, ahead) if constrained else (NO_MASK_INDEX, NO_MASK)
        return SampleInputs(
            temperature_S=columns.temperature_S,
            top_k_S=columns.top_k_S,
            top_p_S=columns.top_p_S,
            min_p_S=columns.min_p_S,
            repetition_S=columns.repetition_S,
            presence_S=columns.presence_S,
            frequency_S=columns.frequency_S,
            uniform_S=self._uniforms(columns, sequences, ahead),
            history_starts_S1=history[0],
            history_tokens=history[1],
            history_counts=history[2],
            bias_starts_S1=bias[0],
            bias_tokens=bias[1],
            bias_values=bias[2].astype(np.float32),
            mask_index_S=masks[0],
            mask_RW=masks[1],
        )

    def _history(
        self, sequences: list[Sequence], ahead: list[list[int]] | None
    ) -> tuple[Int32Array, Int32Array, Int32Array]:
        """Distinct tokens of each penalised row with their counts in the output (0: in the prompt only)."""
        tokens, counts = [], []
        for row, sequence in enumerate(sequences):
            seen = _NO_INT, _NO_INT
            if sequence.params.has_penalties:
                if sequence not in self._counts:
                    self._counts[sequence] = TokenCounts(sequence)
                seen = self._counts[sequence].read(ahead[row] if ahead else ())
            tokens.append(seen[0])
            counts.append(seen[1])
        return _starts(tokens), np.concatenate(tokens), np.concatenate(counts)

    def _uniforms(self, columns: _Columns, sequences: list[Sequence], ahead: list[list[int]] | None) -> Float32Array:
        if not columns.draws:
            return np.zeros(len(sequences), np.float32)
        positions = [len(sequence.tokens) for sequence in sequences]
        if ahead is not None:
            positions = [position + len(guesses) for position, guesses in zip(positions, ahead, strict=True)]
        return self._draw(columns.seed_S, columns.index_S, np.array(positions, np.int32))

    def _of(self, members: tuple[Sequence, ...]) -> _Columns:
        columns = self._known.get(members)
        if columns is None:
            if len(self._known) >= MOST_COLUMNS:
                self._known.clear()
            columns = self._known[members] = _columns(members)
        return columns


def _columns(sequences: Items[Sequence]) -> _Columns:
    params = [sequence.params for sequence in sequences]
    return _Columns(
        temperature_S=np.array([0.0 if p.is_greedy else p.temperature for p in params], np.float32),
        top_k_S=np.array([p.top_k for p in params], np.int32),
        top_p_S=np.array([p.top_p for p in params], np.float32),
        min_p_S=np.array([p.min_p for p in params], np.float32),
        repetition_S=np.array([p.repetition_penalty for p in params], np.float32),
        presence_S=np.array([p.presence_penalty for p in params], np.float32),
        frequency_S=np.array([p.frequency_penalty for p in params], np.float32),
        seed_S=np.array([sequence.seed & (2**64 - 1) for sequence in sequences], np.uint64),
        index_S=np.array([sequence.index for sequence in sequences], np.int32),
        draws=any(not p.is_greedy for p in params),
        has_penalties=any(p.has_penalties for p in params),
        has_bias=any(p.logit_bias or p.min_tokens for p in params),
        has_constraints=any(sequence.constraint is not None for sequence in sequences),
        max_logprobs=max((p.logprobs for p in params if p.logprobs is not None), default=None),
    )


def _bias(sequences: list[Sequence], ahead: list[list[int]] | None) -> tuple[Int32Array, Int32Array, np.ndarray]:
    """Logit bias, and minus infinity on the tokens that would end a row before its min_tokens."""
    rows: list[dict[int, float]] = []
    for number, sequence in enumerate(sequences):
        row = dict(sequence.params.logit_bias)
        if sequence.num_output + (len(ahead[number]) if ahead else 0) < sequence.params.min_tokens:
            row.update(dict.fromkeys(sequence.stop_ids, -np.inf))
        rows.append(row)
    tokens = np.fromiter(chain.from_iterable(rows), np.int32)
    values = np.fromiter(chain.from_iterable(row.values() for row in rows), np.float32)
    return _starts(rows), tokens, values


def _masks(
    sequences: list[Sequence], vocab_size: int, ahead: list[list[int]] | None
) -> tuple[Int32Array, UInt32Array]:
    """What each constrained row may draw. Tokens that its constraint does not know are not allowed."""
    constraints = [(row, one.constraint) for row, one in enumerate(sequences) if one.constraint is not None]
    mask_index_S = np.full(len(sequences), -1, np.int32)
    mask_RW = np.zeros((len(constraints), -(-vocab_size // 32)), np.uint32)
    for number, (row, constraint) in enumerate(constraints):
        mask_index_S[row] = number
        num_guesses = len(ahead[row]) if ahead else 0
        allowed = constraint.allowed_ahead(num_guesses) if num_guesses else constraint.allowed_tokens()
        words = np.frombuffer(allowed, "<u4")[: mask_RW.shape[1]]
        mask_RW[number, : len(words)] = words
    return mask_index_S, mask_RW


def _no_rows(num_rows: int, no_value: np.ndarray) -> tuple[Int32Array, Int32Array, np.ndarray]:
    return np.zeros(num_rows + 1, np.int32), _NO_INT, no_value


def _starts(rows: Items[Items[int] | dict[int, float] | Int32Array]) -> Int32Array:
    starts = np.zeros(len(rows) + 1, np.int32)
    np.cumsum([len(row) for row in rows], out=starts[1:])
    return starts
