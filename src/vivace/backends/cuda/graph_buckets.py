"""Which steps share a CUDA graph. A graph has fixed shapes, so a step of B rows runs in the next larger bucket of
rows, and in the next larger power of two of what attention goes over: parts of contexts, which the kernel's programs
take one by one, or the width of block tables, where torch gathers keys.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from vivace.backends.cuda.kernels.ragged_rows import LEAST_GRAPH_PARTS, MOST_GRAPH_PARTS, PART
from vivace.backends.cuda.spans import GATHERED_POSITIONS
from vivace.ops.backend import Int32Array, StepInputs

ROWS = (1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 192, 256)
Over = Literal["parts", "blocks"]


@dataclass(frozen=True, slots=True)
class GraphOptions:
    """`sizes`: buckets of rows, None for `ROWS`. `at_start`: captured before the first request, else at first use."""

    enabled: bool = True
    sizes: tuple[int, ...] | None = None
    at_start: bool = True

    def buckets_of_rows(self, most_rows: int) -> tuple[int, ...]:
        """Ascending, up to the first that takes `most_rows`."""
        sizes = sorted(set(ROWS if self.sizes is None else self.sizes)) if self.enabled and most_rows else []
        below = [size for size in sizes if size < most_rows]
        return tuple(sizes[: len(below) + 1])


@dataclass(frozen=True, slots=True)
class Bucket:
    """`reach`: parts of all contexts together, or columns of the block tables; a power of two."""

    rows: int
    over: Over
    reach: int


def rows_of(inputs: StepInputs, sizes: tuple[int, ...]) -> int | None:
    """The smallest bucket that has as many rows; None where none has, or a row is not a plain decode row."""
    num_rows = len(inputs.context_lens_B)
    is_plain = inputs.parents_T is None and inputs.states_TD is None
    if not is_plain or not num_rows or len(inputs.token_ids_T) != num_rows or len(inputs.sampled_rows_S) > num_rows:
        return None
    return next((size for size in sizes if size >= num_rows), None)


def width_of(inputs: StepInputs, block_size: int) -> int:
    """Columns of the block tables that contexts reach."""
    return -(-int(inputs.context_lens_B.max()) // block_size)


def ladder(sizes: tuple[int, ...], over: Over, max_context: int, block_size: int) -> list[Bucket]:
    """Every bucket that contexts of up to `max_context` come to. The largest first: later ones then find memory that
    is large enough."""
    return [
        Bucket(rows, over, 1 << power)
        for rows in reversed(sizes)
        for power in reversed(_powers(rows, over, max_context, block_size))
    ]


def bucket_step(bucket: Bucket, max_context: int, block_size: int, spare_slot: int) -> StepInputs:
    """A decode step of this bucket, whose rows all read and write the spare block."""
    rows = bucket.rows
    if bucket.over == "blocks":
        contexts_B = np.full(rows, min(bucket.reach * block_size, max_context))
    else:
        total = max(rows, min(bucket.reach // 2, rows * -(-max_context // PART)))
        parts_B = total // rows + (np.arange(rows) < total % rows)
        contexts_B = np.minimum(parts_B * PART, max_context)
    contexts_B = contexts_B.astype(np.int32)
    width = -(-int(contexts_B.max()) // block_size)
    return StepInputs(
        token_ids_T=np.zeros(rows, np.int32),
        positions_T=contexts_B - np.int32(1),
        slots_T=np.full(rows, spare_slot, np.int32),
        query_starts_B1=np.arange(rows + 1, dtype=np.int32),
        context_lens_B=contexts_B,
        block_tables_BX=np.full((rows, width), spare_slot // block_size, np.int32),
        sampled_rows_S=np.arange(rows, dtype=np.int32),
    )


def fill_up(inputs: StepInputs, num_rows: int, spare_slot: int, block_size: int) -> StepInputs:
    """The step with `num_rows` rows, the new ones over the spare block, and tables as wide as contexts reach."""
    more = num_rows - len(inputs.context_lens_B)
    width = width_of(inputs, block_size)

    def filled(array: Int32Array, value: int, count: int = more) -> Int32Array:
        return np.concatenate([array, np.full(count, value, np.int32)])

    tables_BX = np.full((num_rows, width), spare_slot // block_size, np.int32)
    given_BX = inputs.block_tables_BX[:, :width]
    tables_BX[: len(given_BX)] = given_BX
    return replace(
        inputs,
        token_ids_T=filled(inputs.token_ids_T, 0),
        positions_T=filled(inputs.positions_T, 0),
        slots_T=filled(inputs.slots_T, spare_slot),
        query_starts_B1=np.arange(num_rows + 1, dtype=np.int32),
        context_lens_B=filled(inputs.context_lens_B, 1),
        block_tables_BX=tables_BX,
        sampled_rows_S=filled(inputs.sampled_rows_S, 0, num_rows - len(inputs.sampled_rows_S)),
        drawn_rows_T=None if inputs.drawn_rows_T is None else filled(inputs.drawn_rows_T, -1),
    )


def _powers(rows: int, over: Over, max_context: int, block_size: int) -> range:
    """Of two, which the reach of so many rows may come to."""
    if over == "parts":
        most = min(MOST_GRAPH_PARTS, 1 << (rows * -(-max_context // PART)).bit_length())
        least = max(LEAST_GRAPH_PARTS, 1 << rows.bit_length())
        return range(least.bit_length() - 1, max(least, most).bit_length())
    most = min(GATHERED_POSITIONS // (rows * block_size), 1 << (-(-max_context // block_size) - 1).bit_length())
    return range(most.bit_length())
