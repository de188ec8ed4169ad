"""Room for guessed tokens: what budget and blocks a finished plan leaves, never somebody else's."""

from __future__ import annotations

from vivace.core.step import StepPlan
from vivace.schedule.block_manager import BlockManager

UNKNOWN = -1  # a guess that is still to be made


def plan_drafts(plan: StepPlan, block_manager: BlockManager, max_num_batched_tokens: int) -> None:
    """Lengthen decode rows by the guesses that their sequences want, where nothing must make way for them.

    A guess is one more token of the row. No guess is made for positions past the last token that may come out.
    """
    budget = max_num_batched_tokens - plan.num_tokens
    for item in plan.scheduled:
        sequence = item.sequence
        wanted = sequence.num_speculative
        if not wanted or item.num_new != 1 or not item.samples or item.start < sequence.num_prompt:
            continue
        wanted = min(wanted, budget, sequence.max_len - len(sequence.tokens) - 1)
        while wanted > 0 and not block_manager.can_grow(sequence, 1 + wanted):
            wanted -= 1
        if wanted <= 0:
            continue
        block_manager.grow(sequence, 1 + wanted)
        item.draft = [UNKNOWN] * wanted
        item.num_new += wanted
        plan.num_tokens += wanted
        budget -= wanted


def shorten(plan: StepPlan, num_guessed: list[int]) -> None:
    """Take back the room of guesses that were not made: `num_guessed` for each of `plan.drafting`, in order."""
    for item, count in zip(plan.drafting, num_guessed, strict=True):
        num_missing = len(item.draft) - count
        del item.draft[count:]
        item.num_new -= num_missing
        plan.num_tokens -= num_missing
