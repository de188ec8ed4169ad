"""What guessing may cost: what it has earned, and a small share of the time beside.

The promise not to be slower than without speculation cannot rest on estimates alone: they are wrong where the text
changes. So everything is booked as it was measured: asking the rule, steps with guesses and what they brought. An
account that is empty waits until the time that passes has paid for the next attempt. The unit is a plain step.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil


@dataclass(slots=True)
class Account:
    """Gains `share` of every step; holds or owes `most` steps at most, and begins with `balance` of them."""

    share: float
    most: float
    balance: float

    def pass_steps(self, count: int) -> None:
        """So many steps went by."""
        self.book(self.share * count)

    def book(self, steps: float) -> None:
        """Time won, or lost where negative."""
        self.balance = max(-self.most, min(self.balance + steps, self.most))

    def affords(self, steps: float) -> bool:
        return self.balance >= steps

    def steps_until(self, steps: float) -> int:
        """How many have to go by until so much can be paid for."""
        return max(0, ceil((steps - self.balance) / self.share))
