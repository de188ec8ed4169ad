"""What a run does when: how far it is, its learning rate, its context, how many windows a step takes."""

import argparse
import math
import statistics
from collections import deque

from training.checkpoint import Progress

FINAL_LEARNING_RATE = 0.02  # of the peak
LONGEST_STEP = 5.0  # median steps: more of a step is a stopped process or a compilation, no training
REMEMBERED_STEPS = 101


def learning_rate_factor(fraction: float, warmup: float) -> float:
    """Of the peak, at a fraction of the schedule: linear warm-up, then a cosine down to FINAL_LEARNING_RATE."""
    if fraction < warmup:
        return max(fraction, 1e-3) / warmup
    cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, (fraction - warmup) / (1 - warmup))))
    return FINAL_LEARNING_RATE + (1 - FINAL_LEARNING_RATE) * cosine


class StepClock:
    """Seconds of training: of each step at most LONGEST_STEP times the median of those before it."""

    def __init__(self) -> None:
        self.recent: deque[float] = deque(maxlen=REMEMBERED_STEPS)

    def charge(self, seconds: float) -> float:
        """Of a step that took so long, what counts. The first of a process counts nothing: it warms up."""
        charged = min(seconds, LONGEST_STEP * statistics.median(self.recent)) if self.recent else 0.0
        self.recent.append(seconds)
        return charged


class Schedule:
    """Runs over `--steps` or, with `--minutes`, over the time trained, whichever is further along."""

    def __init__(self, options: argparse.Namespace, progress: Progress) -> None:
        self.options, self.progress = options, progress

    @property
    def fraction(self) -> float:
        """How much of the schedule is behind us: 1 is the end."""
        steps, minutes = self.options.steps, self.options.minutes
        by_steps = self.progress.step / steps if steps else 0.0
        by_time = self.progress.seconds / (60 * minutes) if minutes else 0.0
        return max(by_steps, by_time)

    @property
    def learning_rate(self) -> float:
        return float(self.options.learning_rate) * learning_rate_factor(self.fraction, self.options.warmup)

    @property
    def context(self) -> int:
        """Tokens of a window: `--context`, and `--final-context` in the last `--final-fraction` of the schedule."""
        final = self.options.final_context and self.fraction >= 1 - self.options.final_fraction
        return int(self.options.final_context if final else self.options.context)

    @property
    def num_windows(self) -> int:
        """Windows of a step, whole micro-batches for each process, from `--batch` to `--final-batch`, linearly.

        Few tokens want many updates early and steady ones late. A longer context has fewer windows, as many tokens.
        """
        first, last = self.options.batch, self.options.final_batch or self.options.batch
        tokens = (first + (last - first) * min(1.0, self.fraction)) * self.options.context
        multiple = self.micro_batch * self.options.processes
        return max(1, round(tokens / (multiple * self.context))) * multiple

    @property
    def micro_batch(self) -> int:
        """Windows of one forward pass."""
        return max(1, int(self.options.micro_batch * self.options.context) // self.context)
