"""A step's rows as tiles of an attention kernel, and where their contexts lie.

Which kernel a row runs in, and how its sum is cut, follows from its own sequence alone: how many rows it has in this
step, and its positions. So other sequences of the batch change no bit of it. Shape letters: B sequences, X blocks of
a sequence, N tiles.
"""

from __future__ import annotations

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


def rows_of_split_tile(heads_per_group: int) -> int:
    return max(1, SPLIT_TILE // heads_per_group)


def tile_arrays(query_starts_B1: Int32Array, heads_per_group: int, whole_tile: int) -> dict[str, Int32Array]:
    """Sequence and first row of each tile, for the upload of a step. `whole_tile`: rows times heads of the tiles of
    longer sequences."""
    counts_B = np.diff(query_starts_B1)
    is_split_B = counts_B <= SPLIT_ROWS
    alone = not (counts_B[is_split_B] > 1).any()
    split_rows = 1 if alone else rows_of_split_tile(heads_per_group)
    split = _tiles(query_starts_B1, np.flatnonzero(is_split_B), split_rows)
    whole = _tiles(query_starts_B1, np.flatnonzero(~is_split_B), max(1, whole_tile // heads_per_group))
    return {
        "split_sequences": split[0],
        "split_rows": split[1],
        "whole_sequences": whole[0],
        "whole_rows": whole[1],
        "rows_per_tile": np.array([split_rows, max(1, whole_tile // heads_per_group)], np.int32),
    }


def ragged_rows(
    inputs: StepInputs, heads_per_group: int, whole_tile: int, device: torch.device, max_context: int | None = None
) -> RaggedRows:
    """Of a step whose rows have no parents. `max_context`: a CUDA graph's, which later steps do not exceed."""
    arrays = tile_arrays(inputs.query_starts_B1, heads_per_group, whole_tile)
    split_rows, whole_rows = arrays.pop("rows_per_tile").tolist()
    sent = {name: torch.from_numpy(array).to(device) for name, array in arrays.items()}
    return RaggedRows(
        torch.from_numpy(inputs.query_starts_B1).to(device),
        torch.from_numpy(inputs.context_lens_B).to(device),
        torch.from_numpy(inputs.block_tables_BX).to(device),
        Tiles(sent["split_sequences"], sent["split_rows"], split_rows),
        Tiles(sent["whole_sequences"], sent["whole_rows"], whole_rows),
        int(inputs.context_lens_B.max(initial=1)) if max_context is None else max_context,
    )


def _tiles(query_starts_B1: Int32Array, sequences: NDArray[np.intp], rows: int) -> tuple[Int32Array, Int32Array]:
    starts, stops = query_starts_B1[sequences], query_starts_B1[sequences + 1]
    counts = -(-(stops - starts) // rows)
    owner = np.repeat(np.arange(len(sequences)), counts)
    index = np.arange(len(owner)) - np.repeat(np.cumsum(counts) - counts, counts)
    return sequences[owner].astype(np.int32), (starts[owner] + index * rows).astype(np.int32)
