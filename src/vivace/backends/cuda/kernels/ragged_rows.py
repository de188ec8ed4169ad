"""A step's rows as tiles of an attention kernel, and where their contexts lie.

Which kernel a row runs in, and how its sum is cut, follows from its own sequence alone: how many rows it has in this
step, and its positions. So other sequences of the batch change no bit of it. Shape letters: B sequences, X blocks of
a sequence, N tiles.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vivace.ops.backend import StepInputs

SPLIT_ROWS = 16  # sequences of at most as many rows (decoding, guesses) have their contexts split
SPLIT_TILE = 16  # rows times heads of a group in a tile of theirs: the least that tensor cores take

Int32Array = NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Tiles:
    """Tile n holds rows `first_rows_N[n]` .. + rows_per_tile of sequence `sequences_N[n]`, or up to its end."""

    sequences_N: Tensor
    first_rows_N: Tensor
    rows_per_tile: int

    def __len__(self) -> int:
        return len(self.sequences_N)


@dataclass(frozen=True, slots=True)
class RaggedRows:
    """int32 tensors on the device. `max_context`: the longest one that the split rows may have."""

    query_starts_B1: Tensor
    context_lens_B: Tensor
    block_tables_BX: Tensor
    split: Tiles
    whole: Tiles
    max_context: int


@dataclass(frozen=True, slots=True)
class TilePlan:
    """A step's tiles on the host. `arrays`: what the device needs beside the block tables."""

    arrays: dict[str, Int32Array]
    split_rows: int  # of a tile
    whole_rows: int
    max_context: int

    def on_device(self, sent: Mapping[str, Tensor]) -> RaggedRows:
        """From `arrays` and "tables", as they were sent."""
        return RaggedRows(
            sent["query_starts"],
            sent["context_lens"],
            sent["tables"],
            Tiles(sent["split_sequences"], sent["split_rows"], self.split_rows),
            Tiles(sent["whole_sequences"], sent["whole_rows"], self.whole_rows),
            self.max_context,
        )


def rows_of_split_tile(heads_per_group: int) -> int:
    return max(1, SPLIT_TILE // heads_per_group)


def tile_plan(inputs: StepInputs, heads_per_group: int, whole_tile: int, max_context: int | None = None) -> TilePlan:
    """Of a step whose rows have no parents. `whole_tile`: rows times heads of the tiles of longer sequences.
    `max_context`: a CUDA graph's, which later steps do not exceed."""
    starts_B1, lens_B = inputs.query_starts_B1, inputs.context_lens_B
    counts_B = np.diff(starts_B1)
    is_split_B = counts_B <= SPLIT_ROWS
    alone = not (counts_B[is_split_B] > 1).any()
    split_rows = 1 if alone else rows_of_split_tile(heads_per_group)
    whole_rows = max(1, whole_tile // heads_per_group)
    split_sequences, split_firsts = _tiles(starts_B1, np.flatnonzero(is_split_B), split_rows)
    whole_sequences, whole_firsts = _tiles(starts_B1, np.flatnonzero(~is_split_B), whole_rows)
    arrays = {
        "query_starts": starts_B1,
        "context_lens": lens_B,
        "split_sequences": split_sequences,
        "split_rows": split_firsts,
        "whole_sequences": whole_sequences,
        "whole_rows": whole_firsts,
    }
    longest = int(lens_B[is_split_B].max(initial=1)) if max_context is None else max_context
    return TilePlan(arrays, split_rows, whole_rows, longest)


def ragged_rows(inputs: StepInputs, heads_per_group: int, whole_tile: int, device: torch.device) -> RaggedRows:
    """On the device, sent array by array."""
    plan = tile_plan(inputs, heads_per_group, whole_tile)
    arrays = plan.arrays | {"tables": inputs.block_tables_BX}
    return plan.on_device({name: torch.from_numpy(array).to(device) for name, array in arrays.items()})


def _tiles(query_starts_B1: Int32Array, sequences: NDArray[np.intp], rows: int) -> tuple[Int32Array, Int32Array]:
    starts, stops = query_starts_B1[sequences], query_starts_B1[sequences + 1]
    counts = -(-(stops - starts) // rows)
    owner = np.repeat(np.arange(len(sequences)), counts)
    index = np.arange(len(owner)) - np.repeat(np.cumsum(counts) - counts, counts)
    return sequences[owner].astype(np.int32), (starts[owner] + index * rows).astype(np.int32)
