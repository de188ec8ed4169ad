"""A step's rows in groups of equal shape, so that attention runs over each with whole tensors.

A group has N spans of Q rows each over at most C positions: the spans of one row together (decoding, guesses), as
many as a budget of positions allows, and every longer one by itself, cut where its scores would fill the memory. All
here is decided from the step's integers on the host; nothing waits for the device.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vivace.ops.backend import Int32Array, StepInputs

GATHERED_POSITIONS = 1 << 16  # of a group: at 8 KV heads of 128 in 16 bits, 128 MiB of keys and as much of values
SCORED_POSITIONS = 1 << 21  # Q * C of a group: at 32 heads, 256 MiB of float32 scores


@dataclass(frozen=True, slots=True)
class Span:
    """`rows` of the step [N, Q], one behind the other; `sequences` [N] are the rows of the block tables."""

    first_rows: Int32Array  # [N]
    num_rows: int  # Q
    sequences: Int32Array  # [N]
    num_positions: int  # C


@dataclass(frozen=True, slots=True)
class Branches:
    """Where rows with parents find their paths: of row `rows[i]`, position `positions[i]` lies in slot `slots[i]`.
    `first_positions[t]` is where row t's path begins, its own position + 1 for rows without a parent."""

    rows: Int32Array
    positions: Int32Array
    slots: Int32Array
    first_positions: Int32Array


def spans_of(inputs: StepInputs, single: bool = False, width: int | None = None) -> list[Span]:
    """`single`: all spans have one row and go into one group, `width` positions wide (a CUDA graph's)."""
    counts_B = np.diff(inputs.query_starts_B1)
    if single:
        everyone = np.arange(len(counts_B), dtype=np.int32)
        return [Span(everyone, 1, everyone, width or int(inputs.context_lens_B.max()))]
    return [*_single(inputs, counts_B), *_long(inputs, counts_B)]


def _single(inputs: StepInputs, counts_B: NDArray[np.int32]) -> Iterator[Span]:
    """The shortest contexts first: neighbours in a group then have like lengths."""
    sequences = np.flatnonzero(counts_B == 1).astype(np.int32)
    lengths = inputs.context_lens_B[sequences]
    sequences = sequences[np.argsort(lengths, kind="stable")]
    start = 0
    while start < len(sequences):
        stop = start + 1
        while stop < len(sequences):
            if (stop + 1 - start) * int(inputs.context_lens_B[sequences[stop]]) > GATHERED_POSITIONS:
                break
            stop += 1
        group = sequences[start:stop]
        yield Span(inputs.query_starts_B1[group], 1, group, int(inputs.context_lens_B[group].max()))
        start = stop


def _long(inputs: StepInputs, counts_B: NDArray[np.int32]) -> Iterator[Span]:
    for sequence in np.flatnonzero(counts_B > 1).tolist():
        start, count = int(inputs.query_starts_B1[sequence]), int(counts_B[sequence])
        context = int(inputs.context_lens_B[sequence])
        at_once = max(1, SCORED_POSITIONS // context)
        for done in range(0, count, at_once):
            num_rows = min(at_once, count - done)
            num_positions = context - count + done + num_rows
            yield Span(np.array([start + done], np.int32), num_rows, np.array([sequence], np.int32), num_positions)


def branches_of(inputs: StepInputs) -> Branches | None:
    """None where no row has a parent."""
    parents_T = inputs.parents_T
    if parents_T is None or not (parents_T >= 0).any():
        return None
    rows: list[int] = []
    positions: list[int] = []
    slots: list[int] = []
    first_T = inputs.positions_T + 1
    for row in np.flatnonzero(parents_T >= 0).tolist():
        ancestor = row
        while parents_T[ancestor] >= 0:
            rows.append(row)
            positions.append(int(inputs.positions_T[ancestor]))
            slots.append(int(inputs.slots_T[ancestor]))
            ancestor = int(parents_T[ancestor])
        first_T[row] = positions[-1]
    return Branches(
        np.array(rows, np.int32), np.array(positions, np.int32), np.array(slots, np.int32), first_T.astype(np.int32)
    )
