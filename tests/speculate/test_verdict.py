"""What the log says of the rule: only when most steps go another way."""

from __future__ import annotations

from array import array
from collections import Counter

from vivace.core.sampling import SamplingParams
from vivace.core.sequence import Sequence
from vivace.speculate.rule import LengthRule, StepReport
from vivace.speculate.verdict import INTERVAL_S, Verdict


def measured_rule() -> LengthRule:
    rule = LengthRule(3)
    for _ in range(5):
        rule.observe(StepReport(1, [], 1, 0.010, 0.0, 0.0, True))
        rule.observe(StepReport(1, [3], 3, 0.014, 0.003, 0.0, True))
    one = Sequence("r", 0, array("i", [1, 2]), 2, SamplingParams(temperature=0.0), 0, 0)
    for _ in range(200):
        rule.acceptance.observe(one, 3, 1)
    return rule


def test_says_what_and_why_once() -> None:
    verdict, rule, choices = Verdict(), measured_rule(), Counter({"guess": 90, "trial": 10})
    verdict.look(5.0, choices, 1.83, rule, 1)
    assert verdict.due == 5.0 + INTERVAL_S
    said = verdict.text
    assert said.startswith("guessing pays: 1.83 times the tokens a second")
    assert "90% of the steps guess; a step of 1 takes 10 ms, with 3 guesses each 14 ms, making one 1 ms;" in said
    assert "by position: greedy 1.0" in said
    choices.update(guess=60, plain=40)
    verdict.look(16.0, choices, 1.2, rule, 1)
    assert verdict.text == said
    choices.update(plain=10, rest=90)
    verdict.look(27.0, choices, 0.7, rule, 1)
    assert verdict.text.startswith("guessing does not pay: 0.70 times")


def test_says_nothing_where_nothing_was_chosen() -> None:
    verdict = Verdict()
    verdict.look(5.0, Counter({"none": 7}), 1.0, LengthRule(3), 0)
    assert verdict.text == ""
