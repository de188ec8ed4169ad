"""Which guesses stand.

The sampler is a function of a row's logits and of random numbers that depend on seed, continuation and position alone
(`vivace.ops.random`). So the step computes, for every guess, the very token that would have come out there without
speculation; a guess stands if it is that token. The result equals plain decoding to the bit for every setting of the
sampler, temperature and penalties included, and a restart or another load of the machine cannot change it. Rejection
sampling (Leviathan et al., 2023; Chen et al., 2023) keeps the distribution only: a text would depend on how many
tokens were guessed. For guesses without a distribution (prompt lookup) both accept equally often; a draft model draws
with the same random numbers, which couples its guesses to the target's tokens.
"""

from __future__ import annotations

from typing import NamedTuple

from vivace.core.draft_tree import DraftTree
from vivace.core.events import TokenLogprobs
from vivace.core.sequence import Sequence
from vivace.core.step import ScheduledSequence, StepPlan
from vivace.runtime.runner import StepResult


class Accepted(NamedTuple):
    """Guesses that stand, in order, before each sequence's last token of the step."""

    sequences: list[Sequence]
    tokens: list[int]
    logprobs: list[TokenLogprobs | None]


def num_accepted(sequence: Sequence, draft: list[int], sampled: list[int]) -> int:
    """How many of `draft` equal the tokens that were sampled in their places, up to one that ends the sequence."""
    num_output = sequence.num_output
    for count, (guess, token) in enumerate(zip(draft, sampled, strict=False)):
        ends = token in sequence.stop_ids and num_output + count + 1 > sequence.params.min_tokens
        if guess != token or ends:
            return count
    return len(draft)


def accepted_path(sequence: Sequence, draft: list[int], tree: DraftTree, sampled: list[int]) -> list[int]:
    """The guesses of a tree that stand, from the first on; `sampled` are the tokens behind the last known one and
    behind each guess."""
    num_output, path, last = sequence.num_output, list[int](), -1
    while True:
        token = sampled[last + 1]
        ends = token in sequence.stop_ids and num_output + len(path) + 1 > sequence.params.min_tokens
        last = next((guess for guess in tree.children[last + 1] if draft[guess] == token), -1)
        if ends or last < 0:
            return path
        path.append(last)


def standing(item: ScheduledSequence, sampled: list[int]) -> list[int]:
    """Which of the item's guesses stand, in order."""
    if item.tree is None:
        return list(range(num_accepted(item.sequence, item.draft, sampled)))
    return accepted_path(item.sequence, item.draft, item.tree, sampled)


def verify(plan: StepPlan, result: StepResult) -> tuple[Accepted, list[int]]:
    """Split `result` into accepted guesses and each sequence's last token, which alone stay in `result`.

    Items of the plan keep what stands: `num_new` counts known tokens and accepted guesses. Also returns how many
    guesses of each of the plan's drafting items stand; which ones is in `result.paths`. Keys and values of guesses
    off the chain are still in the slots behind it.
    """
    drafts = {item.sequence: item for item in plan.drafting}
    accepted, counts = Accepted([], [], []), []
    kept: list[int] = []  # rows
    row = 0
    while row < len(result.sequences):
        item = drafts.get(result.sequences[row])
        if item is None:
            kept.append(row)
            row += 1
            continue
        path = standing(item, result.tokens[row : row + len(item.draft) + 1])
        _accept(item, result, row, path, accepted)
        counts.append(len(path))
        result.paths.append(path)
        kept.append(row + path[-1] + 1 if path else row)
        row += len(item.draft) + 1
    for item, count in zip(drafts.values(), counts, strict=True):
        item.num_new -= len(item.draft) - count
    _keep(result, kept)
    return accepted, counts


def _accept(item: ScheduledSequence, result: StepResult, row: int, path: list[int], accepted: Accepted) -> None:
    accepted.sequences.extend([item.sequence] * len(path))
    accepted.tokens.extend([item.draft[guess] for guess in path])
    predecessors = [row, *(row + guess + 1 for guess in path)]  # the rows that guesses were sampled in
    if result.logprobs is None:
        accepted.logprobs.extend([None] * len(path))
    else:
        accepted.logprobs.extend([result.logprobs[one] for one in predecessors[:-1]])


def _keep(result: StepResult, rows: list[int]) -> None:
    result.rows = rows
    result.sequences = [result.sequences[row] for row in rows]
    result.tokens = [result.tokens[row] for row in rows]
    if result.logprobs is not None:
        result.logprobs = [result.logprobs[row] for row in rows]
