"""From a plan of integers to the arrays of one step.

Cost matters: at 256 running sequences this runs every few milliseconds, so rows are gathered with a handful of
NumPy calls over persistent tables instead of a loop over sequences. Each call takes a microsecond or two, however
little it does: few rows are packed by a loop.
"""

from __future__ import annotations

from itertools import chain

import numpy as np

from vivace.core.step import StepPlan
from vivace.ops.backend import Int32Array, StepInputs
from vivace.runtime.tree_rows import tree_rows

FEW_TOKENS = 32  # packed in 8 us (one token) to 25 by a loop, in 22 to 35 by arrays


class BatchBuilder:
    """Keeps the block table of every running sequence in one array and packs each step's inputs from it.

    `max_num_seqs` rows of `max_blocks` entries; a sequence uses the row that the scheduler gave it.
    """

    def __init__(self, max_num_seqs: int, max_model_len: int, block_size: int) -> None:
        max_blocks = -(-max_model_len // block_size)
        self._block_size = block_size
        self._tables = np.zeros((max_num_seqs, max_blocks), np.int32)
        self._num_copied = [0] * max_num_seqs

    def build(self, plan: StepPlan, sampled_rows: list[int]) -> StepInputs:
        """Pack `plan`. `sampled_rows` are the rows of the step whose logits are wanted."""
        for sequence in plan.table_resets:
            self._num_copied[sequence.row] = 0
        rows = []
        has_trees = False
        for item in plan.scheduled:
            sequence = item.sequence
            row = sequence.row
            rows.append(row)
            has_trees = has_trees or item.tree is not None
            if self._num_copied[row] != len(sequence.block_ids):
                self._extend_table(row, sequence.block_ids)
        if has_trees:
            return self._build_trees(plan, sampled_rows)
        if plan.num_tokens <= FEW_TOKENS:
            return self._build_few(plan, rows, sampled_rows)
        rows_B = np.array(rows, np.intp)
        starts_B = np.array([item.start for item in plan.scheduled], np.int32)
        counts_B = np.array([item.num_new for item in plan.scheduled], np.int32)
        context_lens_B = starts_B + counts_B
        query_starts_B1 = np.zeros(len(rows) + 1, np.int32)
        np.cumsum(counts_B, out=query_starts_B1[1:])
        num_blocks = -(-int(context_lens_B.max()) // self._block_size)
        tables_BX = self._tables[rows_B, :num_blocks]
        positions_T, sequence_T = self._positions(starts_B, counts_B, query_starts_B1, plan.num_tokens)
        block_T = tables_BX[sequence_T, positions_T // self._block_size]
        return StepInputs(
            token_ids_T=_token_ids(plan),
            positions_T=positions_T,
            slots_T=block_T * np.int32(self._block_size) + positions_T % np.int32(self._block_size),
            query_starts_B1=query_starts_B1,
            context_lens_B=context_lens_B,
            block_tables_BX=tables_BX,
            sampled_rows_S=np.array(sampled_rows, np.int32),
        )

    def _build_few(self, plan: StepPlan, rows: list[int], sampled_rows: list[int]) -> StepInputs:
        block_size = self._block_size
        tokens: list[int] = []
        positions: list[int] = []
        slots: list[int] = []
        query_starts, context_lens = [0], []
        for item in plan.scheduled:
            sequence, start = item.sequence, item.start
            end, blocks = start + item.num_new, sequence.block_ids
            tokens.extend(sequence.tokens[start : end - len(item.draft)])
            tokens.extend(item.draft)
            span = range(start, end)
            positions.extend(span)
            slots.extend([blocks[place // block_size] * block_size + place % block_size for place in span])
            query_starts.append(len(positions))
            context_lens.append(end)
        return StepInputs(
            token_ids_T=np.array(tokens, np.int32),
            positions_T=np.array(positions, np.int32),
            slots_T=np.array(slots, np.int32),
            query_starts_B1=np.array(query_starts, np.int32),
            context_lens_B=np.array(context_lens, np.int32),
            block_tables_BX=self.block_tables(rows),
            sampled_rows_S=np.array(sampled_rows, np.int32),
        )

    def block_tables(self, rows: list[int]) -> Int32Array:
        """The whole block tables [B, max_blocks] of these rows, as of the last build."""
        if len(rows) == 1:
            return self._tables[rows[0] : rows[0] + 1]
        return self._tables[rows]

    def _build_trees(self, plan: StepPlan, sampled_rows: list[int]) -> StepInputs:
        rows = tree_rows(plan, self._block_size)
        return StepInputs(
            token_ids_T=np.array(rows.tokens, np.int32),
            positions_T=np.array(rows.positions, np.int32),
            slots_T=np.array(rows.slots, np.int32),
            query_starts_B1=np.array(rows.query_starts, np.int32),
            context_lens_B=np.array(rows.context_lens, np.int32),
            block_tables_BX=self._tables[rows.tables],
            sampled_rows_S=np.array(sampled_rows, np.int32),
            parents_T=np.array(rows.parents, np.int32),
        )

    def _extend_table(self, row: int, block_ids: list[int]) -> None:
        copied = self._num_copied[row]
        self._tables[row, copied : len(block_ids)] = block_ids[copied:]
        self._num_copied[row] = len(block_ids)

    @staticmethod
    def _positions(
        starts_B: Int32Array, counts_B: Int32Array, query_starts_B1: Int32Array, num_tokens: int
    ) -> tuple[Int32Array, Int32Array]:
        if num_tokens == len(counts_B):  # one token each: the plain decode step
            return starts_B, np.arange(num_tokens, dtype=np.int32)
        sequence_T = np.repeat(np.arange(len(counts_B), dtype=np.int32), counts_B)
        offset_T = np.arange(num_tokens, dtype=np.int32) - query_starts_B1[:-1][sequence_T]
        return starts_B[sequence_T] + offset_T, sequence_T


def _token_ids(plan: StepPlan) -> Int32Array:
    if plan.drafting:
        known = [item.start + item.num_new - len(item.draft) for item in plan.scheduled]
        rows = [
            [*item.sequence.tokens[item.start : end], *item.draft]
            for item, end in zip(plan.scheduled, known, strict=True)
        ]
        return np.fromiter(chain.from_iterable(rows), np.int32, plan.num_tokens)
    if plan.num_tokens == len(plan.scheduled):
        return np.array([item.sequence.tokens[item.start] for item in plan.scheduled], np.int32)
    parts = [
        np.frombuffer(item.sequence.tokens[item.start : item.start + item.num_new], np.int32)
        for item in plan.scheduled
    ]
    return np.concatenate(parts)
