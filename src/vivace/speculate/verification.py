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


def verify(plan: StepPlan, result: StepResult) -> tuple[Accepted, list[int]]:
    """Split `result` into accepted guesses and each sequence's last token, which alone stay in `result`.

    Items of the plan keep what stands: `num_new` counts known tokens and accepted guesses. Also returns how many
    guesses of each of the plan's drafting items stand.
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
        count = num_accepted(item.sequence, item.draft, result.tokens[row : row + len(item.draft)])
        _accept(item, result, row, count, accepted)
        counts.append(count)
        kept.append(row + count)
        row += len(item.draft) + 1
    for item, count in zip(drafts.values(), counts, strict=True):
        item.num_new -= len(item.draft) - count
    _keep(result, kept)
    return accepted, counts


def _accept(item: ScheduledSequence, result: StepResult, row: int, count: int, accepted: Accepted) -> None:
    accepted.sequences.extend([item.sequence] * count)
    accepted.tokens.extend(item.draft[:count])
    accepted.logprobs.extend([None] * count if result.logprobs is None else result.logprobs[row : row + count])


def _keep(result: StepResult, rows: list[int]) -> None:
    result.sequences = [result.sequences[row] for row in rows]
    result.tokens = [result.tokens[row] for row in rows]
    if result.logprobs is not None:
        result.logprobs = [result.logprobs[row] for row in rows]
