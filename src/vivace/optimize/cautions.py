"""What a reader of the answer should know before relying on it."""

from __future__ import annotations

from collections.abc import Iterator

from vivace.optimize.answer import Answer
from vivace.optimize.knee import GOOD_SHARE

OVERRUN_S = 1.0
FEW = 3


def cautions(answer: Answer) -> Iterator[str]:
    """Whole sentences; none where all is well."""
    if answer.overrun_s > OVERRUN_S:
        yield (
            f"It took {answer.seconds:.0f} s instead of {answer.extra['time_budget_s']:.0f}: the naive baseline and "
            "one configuration to serve are measured whatever the time, and what was begun is ended."
        )
    if answer.naive.measured.is_extended:
        yield (
            "The naive baseline is too slow for this time budget to wait for a whole answer: its "
            f"{answer.naive.measured.single_latency_ms / 1e3:.1f} s are its first tokens' pace, gone on with."
        )
    skipped = {one.candidate for one in answer.dropped if one.stage == "time"}
    num_skipped = len(skipped - {one.candidate for one in answer.results})
    if num_skipped:
        yield f"There was no time for {num_skipped} of the promising candidates: a longer --time-budget has it."
    pick = answer.pick
    offered = answer.objective.offered_per_s
    if offered is not None and pick.measured.requests_per_s < offered:
        yield (
            f"The pick answers {pick.measured.requests_per_s:.3g} requests a second at most where {offered:g} come: "
            "the queue grows for as long as they do. More machines, or fewer requests."
        )
    if answer.objective.name == "goodput" and not pick.measured.goodput_per_s:
        share = 100 * (pick.measured.good_share or 0.0)
        yield (
            f"Nothing keeps the SLO for {100 * GOOD_SHARE:.0f}% of its requests at any rate; of the pick's, "
            f"{share:.0f}% do. A looser --slo, or a faster machine."
        )
    if answer.overlooked is not None:
        better = 100 * (answer.overlooked.score / pick.score - 1)
        yield (
            f"{answer.overlooked.candidate.words} did {better:.0f}% better than the pick, but too late to have its "
            "text judged: a longer --time-budget decides."
        )
    if pick.repetitions < FEW:
        runs = "once" if pick.repetitions == 1 else "twice"
        yield f"The pick was measured {runs}: a longer --time-budget tells more surely whether it is the best."
