"""How many tokens to guess: as many as bring the most tokens a second, none where none pay.

Guesses of all sequences are taken in the order of the chance that they bring a token; the number of them that
maximises expected tokens / expected seconds wins. Both come from measurements: step time by rows, time of a pass of
guesses, time of asking, acceptance by position (Leviathan et al., 2023, section 3.5, with measured instead of assumed
costs). What was promised is booked against what came (`Account`), which bounds the loss where estimates err.

A decision takes 5 us for one sequence, 30 us for 16 (5 guesses each), in plain Python: NumPy's calls took 100.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from vivace.core.sequence import Sequence
from vivace.speculate.acceptance import Acceptance
from vivace.speculate.account import Account
from vivace.speculate.step_cost import StepCost
from vivace.speculate.tree_acceptance import TreeAcceptance

# Guessing must promise so much more than a plain step to begin: the best of many estimates errs upwards.
MARGIN = 1.06
STAYING_MARGIN = 1.03  # to go on
ASKING_SHARE = 0.003  # of the time, for asking in vain
TRIAL_SHARE = 0.005  # of the time, for guesses against the estimate: whether it still holds
FIRST_CREDIT = 4.0  # plain steps
MOST_CREDIT = 16.0
TRIAL_STEPS = 4  # the first of them pays for what a draft model has to catch up with
REFRESH_STEPS = 64  # plain steps now and then keep their measured time true, more often where little is lost by them
NUM_REFRESHING = 2  # of them: the first one after guesses packs its batch anew and takes 5 to 10% longer
LEAST_REFRESH_STEPS = 8
SHORTEST_REST, LONGEST_REST = 8, 512  # steps
SELDOM = 4  # costs that do not follow the context
OUTLIER = 2.0  # times the time expected: what is beyond is a preempted thread, no cost of guessing

Kind = Literal["guess", "plain", "trial", "none", "rest"]
"""trial: against the estimate, to measure; none: nothing to guess; rest: not asked, for asking costs as well."""


@dataclass(slots=True)
class Choice:
    """Guesses for each sequence, and why. `gain`: tokens a second that are expected over those of a plain step."""

    lengths: list[int]
    kind: Kind
    gain: float


@dataclass(slots=True)
class StepReport:
    """A step of decode rows alone: one for each of `num_sequences` and one for each guess; it brought `num_tokens`.

    Seconds: of guessing, of asking the rule before or after, and of all the rest. `is_steady`: the step before was of
    the same sort, with guesses or without: nothing to catch up with. `is_trial`: the rule expected a loss.
    """

    num_sequences: int
    lengths: list[int]  # of those with guesses
    num_tokens: int
    target_s: float
    guessing_s: float
    asking_s: float
    is_steady: bool
    is_trial: bool = False


class LengthRule:
    """Decides from what it is told of earlier steps. Clocks and models are somebody else's.

    `sequential`: guesses of a sequence come one after another, each at the price of a pass, as from a draft model.
    """

    def __init__(self, most: int, *, adaptive: bool = True, sequential: bool = True) -> None:
        self.most = most
        self.adaptive = adaptive
        self.sequential = sequential
        self.plain = StepCost()  # a step without guesses, by sequences
        self.verifying = StepCost(is_coarse=True)  # a step with guesses, by rows
        self.guessing = StepCost(stride=SELDOM)  # a pass, by the sequences in it
        self.asking = StepCost(stride=SELDOM)  # by sequences
        self.acceptance: Acceptance | TreeAcceptance = Acceptance(most)
        self._asking_account = Account(ASKING_SHARE, MOST_CREDIT, FIRST_CREDIT)
        self._trial_account = Account(TRIAL_SHARE, MOST_CREDIT, FIRST_CREDIT)
        self._kind: Kind = "none"
        self._num_trials = 0  # steps that the trial under way goes on for
        self._num_guessing = 0  # steps in a row
        self._num_refreshing = 0  # plain steps yet to come, to measure them

    def observe(self, report: StepReport) -> None:
        num_sequences = report.num_sequences
        lengths = report.lengths
        if lengths:
            self.verifying.observe(num_sequences + sum(lengths), report.target_s)
        elif report.is_steady or not self.plain.knows(num_sequences):
            self.plain.observe(num_sequences, report.target_s)
        if report.asking_s:
            self.asking.observe(num_sequences, report.asking_s)
        if lengths and report.is_steady:
            num_passes = max(lengths) if self.sequential else 1
            in_pass = -(-sum(lengths) // num_passes) if self.sequential else len(lengths)
            self.guessing.observe(in_pass, report.guessing_s / num_passes)
        if self.adaptive and self.plain.knows(num_sequences):
            self._book(report)

    def steps_to_rest(self, num_sequences: int) -> int:
        """How many plain steps to make before asking, since asking cannot be paid for; then it is to be asked."""
        if not self.adaptive or self._num_trials or self._kind == "rest":
            return 0
        plain_s = self.plain.seconds(num_sequences)
        if not plain_s:
            return 0
        count = self._asking_account.steps_until(self.asking.seconds(num_sequences) / plain_s)
        if count:
            count = max(SHORTEST_REST, min(count, LONGEST_REST))
            self._kind = "rest"
            self._num_guessing = 0
            self._pass_steps(count - 1)  # the last of them is reported
        return count

    def choose(self, sequences: list[Sequence], available: list[int], kinds: list[int] | None = None) -> Choice:
        """How many of the `available` guesses, of which `kinds`, to make for each sequence of the next step."""
        if not any(available):
            return self._chosen(Choice([0] * len(sequences), "none", 1.0))
        if not self.adaptive:
            return self._chosen(Choice(list(available), "guess", 1.0))
        if not self.plain.knows(len(sequences)):
            return self._chosen(Choice([0] * len(sequences), "plain", 1.0))
        of_class = self.acceptance.chances
        chances = [
            of_class(sequence, kind)[:count]
            for sequence, kind, count in zip(sequences, kinds or [0] * len(sequences), available, strict=True)
        ]
        return self._chosen(self._judged(*self._best(chances)))

    def _best(self, chances: list[list[float]]) -> tuple[list[int], float]:
        """The best lengths if any are made, and their tokens a second over those of a plain step."""
        num_sequences = len(chances)
        guesses = [(chance, -place, number) for number, row in enumerate(chances) for place, chance in enumerate(row)]
        guesses.sort(reverse=True)
        plain_s = self.plain.seconds(num_sequences)
        step_s = self._step_table(num_sequences, num_sequences + len(guesses))
        pass_s = self.guessing.table(num_sequences)
        in_pass = [0] * self.most  # from the last place on
        tokens, guessing_s = float(num_sequences), self.asking.seconds(num_sequences)
        best, best_speed, num_rows = 0, 0.0, num_sequences
        for chance, place, _ in guesses:
            tokens += chance
            num_rows += 1
            if self.sequential or not place:
                in_pass[place] = others = in_pass[place] + 1
                guessing_s += pass_s[others] - pass_s[others - 1]
            speed = tokens / (step_s[num_rows] + guessing_s)
            if speed > best_speed:
                best, best_speed = num_rows, speed
        lengths = [0] * num_sequences
        for _, _, number in guesses[: best - num_sequences]:
            lengths[number] += 1
        return lengths, best_speed * plain_s / num_sequences

    def _step_table(self, num_sequences: int, num_rows: int) -> list[float]:
        """Seconds of a step with guesses, by rows. None was measured: as a plain one."""
        if self.verifying.knows(num_rows):
            return self.verifying.table(num_rows)
        return [self.plain.seconds(num_sequences)] * (num_rows + 1)

    def _judged(self, lengths: list[int], gain: float) -> Choice:
        """What pays; now and then the other way, to know whether it still does."""
        pays = gain > (STAYING_MARGIN if self._kind == "guess" else MARGIN)
        if self._num_refreshing or (pays and self._asking_account.balance > 0.0):  # in debt, promises count no more
            return self._paying(lengths, gain)
        if self._num_trials:
            self._num_trials -= 1
        elif self._trial_account.affords(min(TRIAL_STEPS * max(0.0, 1.0 / gain - 1.0), MOST_CREDIT)):
            self._num_trials = TRIAL_STEPS - 1
        else:
            return Choice([0] * len(lengths), "plain", gain)
        return Choice(lengths, "trial", gain)

    def _paying(self, lengths: list[int], gain: float) -> Choice:
        self._num_trials = 0
        if self._num_guessing >= max(LEAST_REFRESH_STEPS, min(1.0, gain - 1.0) * REFRESH_STEPS):
            self._num_refreshing = NUM_REFRESHING
        if not self._num_refreshing:
            return Choice(lengths, "guess", gain)
        self._num_refreshing -= 1
        return Choice([0] * len(lengths), "trial", gain)

    def _chosen(self, choice: Choice) -> Choice:
        self._kind = choice.kind
        self._num_guessing = self._num_guessing + 1 if choice.kind == "guess" else 0
        return choice

    def _book(self, report: StepReport) -> None:
        """In plain steps: what asking cost, and what guesses brought over the time that they took."""
        plain_s = self.plain.seconds(report.num_sequences)
        self._pass_steps(1)
        asking_s = min(report.asking_s, OUTLIER * self.asking.seconds(report.num_sequences))
        self._asking_account.book(-asking_s / plain_s)
        if not report.lengths:
            return
        expected_s = self.verifying.seconds(report.num_sequences + sum(report.lengths)) + report.guessing_s
        seconds = min(report.target_s + report.guessing_s, OUTLIER * expected_s)
        won = report.num_tokens / report.num_sequences - seconds / plain_s
        if report.is_trial:
            self._trial_account.book(won)
        if won > 0.0 or not report.is_trial:
            self._asking_account.book(won)

    def _pass_steps(self, count: int) -> None:
        self._asking_account.pass_steps(count)
        self._trial_account.pass_steps(count)
