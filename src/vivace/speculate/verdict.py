"""What the rule has been choosing, and why: a sentence for the log when most steps go another way than before."""

from __future__ import annotations

from collections import Counter

from vivace.speculate.rule import LengthRule

INTERVAL_S = 10.0  # between two looks, and so the least between two sentences
MOST_CLASSES = 3  # of acceptance, in a sentence


class Verdict:
    """`text` stays until most steps of an interval go another way: with guesses, or without."""

    def __init__(self) -> None:
        self.text = ""
        self.due = 0.0  # on the clock of `look`
        self._before: Counter[str] = Counter()
        self._guesses: bool | None = None

    def look(self, now: float, choices: Counter[str], gain: float, rule: LengthRule, num_sequences: int) -> None:
        """`choices` are steps by kind since the start; `num_sequences` those of the last step."""
        self.due = now + INTERVAL_S
        made = choices - self._before
        self._before = choices.copy()
        with_guesses, without = made["guess"], made["plain"] + made["rest"]
        if not with_guesses + without:
            return
        guesses = with_guesses > without
        if guesses != self._guesses:
            self._guesses = guesses
            share = with_guesses / max(1, made.total())
            self.text = _sentence(guesses, share, gain, rule, max(1, num_sequences))


def _sentence(guesses: bool, share: float, gain: float, rule: LengthRule, num_sequences: int) -> str:
    opening = "guessing pays" if guesses else "guessing does not pay"
    plain_s, largest = rule.plain.seconds(num_sequences), (1 + rule.most) * num_sequences
    costs = [f"a step of {num_sequences} takes {1e3 * plain_s:.3g} ms"]
    if rule.verifying.knows(largest):
        costs.append(f"with {rule.most} guesses each {1e3 * rule.verifying.seconds(largest):.3g} ms")
    if rule.sequential:
        costs.append(f"making one {1e3 * rule.guessing.seconds(1):.2g} ms")
    expected = (
        f"{gain:.2f} times the tokens a second expected of the last choice, {100 * share:.0f}% of the steps guess"
    )
    return f"{opening}: {expected}; {', '.join(costs)}; guesses that stand, by position: {_rates(rule)}"


def _rates(rule: LengthRule) -> str:
    classes = list(rule.acceptance.class_rates().items())[-MOST_CLASSES:]
    described = []
    for (is_greedy, kind), rates in classes:
        name = "greedy" if is_greedy else "sampled"
        described.append(f"{name}{f' (kind {kind})' if kind else ''} {' '.join(f'{rate:.2f}' for rate in rates[:5])}")
    return ", ".join(described) or "none seen"
