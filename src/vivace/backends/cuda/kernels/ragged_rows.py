"""A step's rows as tiles of an attention kernel, and where their contexts lie.

Which kernel a row runs in, and how its sum is cut, follows from its own sequence alone: how many rows it has in this
step, and its positions. So other sequences of the batch change no bit of it. Shape letters: T rows, B sequences, X
blocks of a sequence, N tiles, P parts of contexts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vivace.backends.cuda.kernels.prompt_rows import PromptPlan, PromptRows, prompt_arrays, prompt_plan
from vivace.backends.cuda.kernels.tree_paths import TreePaths, path_arrays
from vivace.ops.backend import StepInputs

SPLIT_ROWS = 16  # sequences of at most as many rows (decoding, guesses) have their contexts split
LEAST_LINES, MOST_LINES = 16, 64  # rows times heads of a tile of theirs: what tensor cores take, what registers hold
PART = 256  # positions: 8 KV heads at 8192 positions make 256 programs, two a core of an H100
LEAST_GRAPH_PARTS = 1 << 6  # at 8 KV heads 512 programs, four a core of an H100: those with nothing to do cost little
MOST_GRAPH_PARTS = 1 << 14  # 256 MiB of their sums at 32 heads of 128 dimensions

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
class SplitTiles(Tiles):
    """Tile n has its context in parts `starts_N1[n]` .. `starts_N1[n + 1]`, of PART positions each; part p belongs to
    tile `tiles_P[p]`, or to none (-1)."""

    starts_N1: Tensor
    tiles_P: Tensor
    starts: Int32Array  # [N + 1], on the host

    def launches(self, parts_at_once: int) -> Iterator[tuple[int, int]]:
        """Runs of tiles with at most so many parts, or of one tile. One run where parts are filled up to a number:
        a graph's, which must not follow the contexts."""
        first, count = 0, len(self.starts) - 1
        if len(self.tiles_P) > self.starts[-1]:
            parts_at_once = len(self.tiles_P)
        while first < count:
            limit = int(self.starts[first]) + parts_at_once
            stop = max(first + 1, int(np.searchsorted(self.starts, limit, side="right")) - 1)
            yield first, stop
            first = stop


@dataclass(frozen=True, slots=True)
class RaggedRows:
    """int32 tensors on the device."""

    query_starts_B1: Tensor
    context_lens_B: Tensor
    block_tables_BX: Tensor
    split: tuple[SplitTiles, ...]
    whole: Tiles
    paths: TreePaths | None = None
    prompts: PromptRows | None = None


@dataclass(frozen=True, slots=True)
class SplitPlan:
    """Of the sequences whose tiles have so many rows. `name`: of its arrays."""

    name: str
    rows_per_tile: int
    starts_N1: Int32Array


@dataclass(frozen=True, slots=True)
class TilePlan:
    """A step's tiles on the host. `arrays`: what the device needs beside the block tables."""

    arrays: dict[str, Int32Array]
    split: tuple[SplitPlan, ...]
    whole_rows: int  # of a tile
    prompts: PromptPlan | None = None  # for another implementation

    def on_device(self, sent: Mapping[str, Tensor]) -> RaggedRows:
        """From `arrays`, "tables" and, with prompts, "slots", as they were sent."""
        split = (
            SplitTiles(
                sent[f"{one.name}_sequences"], sent[f"{one.name}_rows"], one.rows_per_tile,
                sent[f"{one.name}_starts"], sent[f"{one.name}_tiles"], one.starts_N1,
            )
            for one in self.split
        )  # fmt: skip
        return RaggedRows(
            sent["query_starts"],
            sent["context_lens"],
            sent["tables"],
            tuple(split),
            Tiles(sent["whole_sequences"], sent["whole_rows"], self.whole_rows),
            TreePaths(sent["path_firsts"], sent["path_slots"]) if "path_slots" in self.arrays else None,
            None if self.prompts is None else self.prompts.on_device(sent),
        )


def rows_of_split_tile(num_rows: int, heads_per_group: int, most_lines: int = MOST_LINES) -> int:
    """Of a sequence that has so many rows in this step: all of them where they fit."""
    if num_rows == 1:
        return 1
    lines = 1 << (num_rows * heads_per_group - 1).bit_length()
    return max(1, min(most_lines, max(LEAST_LINES, lines)) // heads_per_group)


def graph_parts(inputs: StepInputs) -> int:
    """The next power of 2 above the number of parts of a step that only decodes, and no small one."""
    return max(LEAST_GRAPH_PARTS, 1 << int((-(-inputs.context_lens_B // PART)).sum()).bit_length())


def tile_plan(
    inputs: StepInputs,
    heads_per_group: int,
    whole_tile: int,
    num_parts: int | None = None,
    elsewhere_B: NDArray[np.bool_] | None = None,
) -> TilePlan:
    """Of a step. `whole_tile`: rows times heads of the tiles of longer sequences. `elsewhere_B`: sequences that
    another implementation computes.

    The shapes of a CUDA graph must not follow the contexts: `num_parts`, more than there are, is what the parts of a
    step that only decodes are filled up to.
    """
    starts_B1, lens_B = inputs.query_starts_B1, inputs.context_lens_B
    counts_B = np.diff(starts_B1)
    is_here_B = np.ones(len(counts_B), bool) if elsewhere_B is None else ~elsewhere_B
    is_split_B = counts_B <= SPLIT_ROWS
    most = max(LEAST_LINES, min(MOST_LINES, whole_tile // 2))
    rows_B = np.array([rows_of_split_tile(count, heads_per_group, most) for count in counts_B.tolist()])
    arrays = {"query_starts": starts_B1, "context_lens": lens_B}
    plans = []
    for rows in np.unique(rows_B[is_split_B & is_here_B]).tolist():
        sequences, firsts = _tiles(starts_B1, np.flatnonzero(is_split_B & is_here_B & (rows_B == rows)), rows)
        plan, more = _parts(f"split{rows}", rows, -(-lens_B[sequences] // PART), num_parts)
        plans.append(plan)
        arrays |= more | {f"{plan.name}_sequences": sequences, f"{plan.name}_rows": firsts}
    whole_rows = max(1, whole_tile // heads_per_group)
    sequences, firsts = _longest_first(starts_B1, lens_B, np.flatnonzero(~is_split_B & is_here_B), whole_rows)
    arrays |= {"whole_sequences": sequences, "whole_rows": firsts} | path_arrays(inputs)
    if is_here_B.all():
        return TilePlan(arrays, tuple(plans), whole_rows)
    prompts = prompt_plan(inputs, ~is_here_B)
    return TilePlan(arrays | prompt_arrays(prompts), tuple(plans), whole_rows, prompts)


def ragged_rows(inputs: StepInputs, heads_per_group: int, whole_tile: int, device: torch.device) -> RaggedRows:
    """On the device, sent array by array."""
    plan = tile_plan(inputs, heads_per_group, whole_tile)
    arrays = plan.arrays | {"tables": inputs.block_tables_BX}
    return plan.on_device({name: torch.from_numpy(array).to(device) for name, array in arrays.items()})


def _parts(name: str, rows: int, counts_N: Int32Array, wanted: int | None) -> tuple[SplitPlan, dict[str, Int32Array]]:
    starts_N1 = np.concatenate([[0], np.cumsum(counts_N)]).astype(np.int32)
    tiles_P = np.repeat(np.arange(len(counts_N), dtype=np.int32), counts_N)
    if wanted is not None:
        tiles_P = np.concatenate([tiles_P, np.full(wanted - len(tiles_P), -1, np.int32)])
    return SplitPlan(name, rows, starts_N1), {f"{name}_starts": starts_N1, f"{name}_tiles": tiles_P}


def _longest_first(
    query_starts_B1: Int32Array, context_lens_B: Int32Array, sequences: NDArray[np.intp], rows: int
) -> tuple[Int32Array, Int32Array]:
    """Tiles of prompts that reach over the most positions begin first: the last programs to end are short ones."""
    owner, firsts = _tiles(query_starts_B1, sequences, rows)
    order = np.argsort(-(context_lens_B[owner] - query_starts_B1[owner + 1] + firsts), kind="stable")
    return owner[order], firsts[order]


def _tiles(query_starts_B1: Int32Array, sequences: NDArray[np.intp], rows: int) -> tuple[Int32Array, Int32Array]:
    starts, stops = query_starts_B1[sequences], query_starts_B1[sequences + 1]
    counts = -(-(stops - starts) // rows)
    owner = np.repeat(np.arange(len(sequences)), counts)
    index = np.arange(len(owner)) - np.repeat(np.cumsum(counts) - counts, counts)
    return sequences[owner].astype(np.int32), (starts[owner] + index * rows).astype(np.int32)
