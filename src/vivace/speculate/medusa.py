"""Medusa heads guess (Cai et al., 2024, "Medusa: simple LLM inference acceleration framework with multiple decoding
heads"): from the hidden state of a sequence's last row, head k the token k + 2 places behind it. The token one place
behind it was drawn already; heads that were trained so see it too.

Heads run as a program of their own over the states that the target's left: in the target's program they would run for
every row of a tree, rejected ones included, and lm_head is the largest matrix of a small model.
"""

from __future__ import annotations

from collections.abc import Sequence as Items

import numpy as np

from vivace.core.sequence import Sequence
from vivace.core.step import ScheduledSequence, StepPlan
from vivace.models.medusa import TreePath
from vivace.ops.backend import AsynchronousBackend, Backend, Executable, Int32Array, KVCache, StepInputs
from vivace.runtime.runner import StepResult
from vivace.speculate.candidate_tree import CandidateTree, candidate_tree
from vivace.speculate.tree_acceptance import TreeAcceptance

_NOTHING_RAN = StepResult([], [], None, [])


class MedusaProposer:
    """`heads[k]` computes the logits of the first k + 1 heads; `kv_cache` is the target's, in which accepted
    guesses move to their places; `paths` are the tree's, the best first."""

    is_sequential = False
    guesses_chains = False

    def __init__(
        self,
        backend: Backend,
        heads: Items[Executable],
        kv_cache: KVCache,
        paths: Items[TreePath],
        acceptance: TreeAcceptance,
        *,
        block_size: int,
    ) -> None:
        self._backend = backend
        self._keeps_states = isinstance(backend, AsynchronousBackend)  # states stay on the device
        self._heads = heads
        self._kv_cache = kv_cache
        self._trees = [candidate_tree(paths[:size]) for size in range(1, len(paths) + 1)]
        self._acceptance = acceptance
        self._block_size = block_size
        self._last = _NOTHING_RAN
        self._inputs: dict[tuple[int, int], StepInputs] = {}

    def available(self, sequence: Sequence, most: int) -> int:  # noqa: ARG002 -- the same for all
        return min(most, len(self._trees))

    def kind(self, sequence: Sequence) -> int:  # noqa: ARG002 -- there is one
        return 0

    def begin_step(self, plan: StepPlan) -> None:
        """Nothing: states belong to sequences, not to blocks."""

    def propose(self, items: list[ScheduledSequence]) -> list[list[int]]:
        """Fills the items' trees too. A sequence whose last token another step computed gets no guess."""
        last = self._last
        row_of = dict(zip(last.sequences, last.rows, strict=True))
        asking = [item for item in items if item.sequence in row_of]
        if not asking:
            return [[] for _ in items]
        trees = {item.sequence: self._trees[len(item.draft) - 1] for item in asking}
        tokens = [item.sequence.tokens[-1] for item in asking]
        guesses = self._guesses([row_of[item.sequence] for item in asking], tokens, list(trees.values()))
        made = {item.sequence: one for item, one in zip(asking, guesses, strict=True)}
        for item in asking:
            item.tree = trees[item.sequence].tree
        return [made.get(item.sequence, []) for item in items]

    def end_step(self, plan: StepPlan, result: StepResult) -> None:
        """Put the tokens of accepted guesses where they belong, learn, and keep the states' places."""
        self._last = result
        moves: list[tuple[int, int]] = []
        for item, path in zip(plan.drafting, result.paths, strict=True):
            numbers = self._trees[len(item.draft) - 1].numbers
            self._acceptance.learn(item.sequence, len(item.draft), {numbers[guess] for guess in path})
            first = item.start + item.num_new - len(path)
            for place, guess in enumerate(path):
                if guess != place:
                    moves.append((self._slot(item, first + guess), self._slot(item, first + place)))
        if moves:
            self._kv_cache.move_tokens(moves)

    def forget(self, sequence: Sequence) -> None:
        """Nothing is kept of a sequence beyond its next step."""

    def _slot(self, item: ScheduledSequence, position: int) -> int:
        block = item.sequence.block_ids[position // self._block_size]
        return block * self._block_size + position % self._block_size

    def _guesses(self, rows: list[int], tokens: list[int], trees: list[CandidateTree]) -> list[list[int]]:
        """Of the states in `rows` with the tokens behind them, for the tree of each."""
        num_heads, num_ranks = max(tree.num_heads for tree in trees), max(tree.num_ranks for tree in trees)
        inputs = self._step(len(rows), num_heads)
        if self._keeps_states:
            inputs.states_TD, inputs.state_rows_T = self._last.states, np.array(rows, np.int32)
        else:
            inputs.states_TD = np.ascontiguousarray(self._backend.on_host(self._last.states[rows]))
        inputs.token_ids_T = np.array(tokens, np.int32)
        logits = self._heads[num_heads - 1].run(inputs)
        best = self._backend.top_logprobs(logits, inputs.sampled_rows_S, num_ranks).top_ids_SK.tolist()
        return [
            [best[number * num_heads + head][rank] for head, rank in zip(tree.heads, tree.ranks, strict=True)]
            for number, tree in enumerate(trees)
        ]

    def _step(self, num_states: int, num_heads: int) -> StepInputs:
        """A step without a context. Sampled rows are counted, not looked at."""
        inputs = self._inputs.get((num_states, num_heads))
        if inputs is None:
            zeros: Int32Array = np.zeros(num_states, np.int32)
            inputs = self._inputs[num_states, num_heads] = StepInputs(
                token_ids_T=zeros,
                positions_T=zeros,
                slots_T=zeros,
                query_starts_B1=np.arange(num_states + 1, dtype=np.int32),
                context_lens_B=np.ones(num_states, np.int32),
                block_tables_BX=np.zeros((num_states, 1), np.int32),
                sampled_rows_S=np.zeros(num_states * num_heads, np.int32),
            )
        return inputs


def expected_chances(accuracy_KR: Items[Items[float]], paths: Items[TreePath]) -> list[float]:
    """Of each path: that it stands, if heads err independently. `accuracy_KR[k][r]` is how often head k's guess
    of rank r is the true token."""
    chances = []
    for path in paths:
        chance = 1.0
        for head, rank in enumerate(path):
            chance *= accuracy_KR[head][rank]
        chances.append(chance)
    return chances
