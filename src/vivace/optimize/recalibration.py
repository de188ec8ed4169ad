"""Forecasts brought in line with what the ladder has measured.

A forecast knows an ideal steady state. What it misses costs time for every step, for every prompt token and for every
token that is written, so seconds a token are taken as a sum of four parts with weights that are not negative:

    1 / measured = a / forecast + b / batch + c * prompt tokens a token + d

The weights minimise relative errors, each damped where it is large (Huber, 1964), so that one disturbed run does not
bend them. With fewer measurements than `LEAST` all forecasts are scaled by their median error alone.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

LEAST = 6
SWEEPS, DAMPED_FROM = 8, 0.1  # relative error

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class CostTerms:
    """What a token costs, as forecast: seconds, steps that it needs, prompt tokens that are computed for it."""

    seconds: float
    steps: float
    prompt_tokens: float

    def row(self) -> tuple[float, float, float, float]:
        return self.seconds, self.steps, self.prompt_tokens, 1.0


@dataclass(frozen=True, slots=True)
class Recalibration:
    """Weights of the parts; by default forecasts stay as they are."""

    weights: tuple[float, ...] = (1.0, 0.0, 0.0, 0.0)

    def seconds(self, terms: CostTerms) -> float:
        """That a token will take."""
        return float(np.dot(self.weights, terms.row()))

    @classmethod
    def fit(cls, terms: Sequence[CostTerms], measured_s: Sequence[float]) -> Recalibration:
        """`measured_s`: seconds a token, in the same order."""
        if not terms:
            return cls()
        if len(terms) < LEAST:
            ratio = statistics.median(own / one.seconds for one, own in zip(terms, measured_s, strict=True))
            return cls((ratio, 0.0, 0.0, 0.0))
        rows_MP = np.array([one.row() for one in terms]) / np.array(measured_s)[:, None]
        damping_M = np.ones(len(terms))
        weights_P = np.zeros(rows_MP.shape[1])
        for _ in range(SWEEPS):
            weights_P = _least_squares(rows_MP, damping_M)
            errors_M = np.abs(rows_MP @ weights_P - 1)
            damping_M = np.minimum(1.0, DAMPED_FROM / np.maximum(errors_M, 1e-9))
        return cls(tuple(weights_P.tolist()))


def _least_squares(rows_MP: Floats, damping_M: Floats) -> Floats:
    """Weights of 0 and more for which the parts of each row sum to 1: of all choices of parts that may count, the
    best. There are fifteen."""
    roots_M = np.sqrt(damping_M)
    best_P, least = np.zeros(rows_MP.shape[1]), np.inf
    for count in range(1, rows_MP.shape[1] + 1):
        for chosen in combinations(range(rows_MP.shape[1]), count):
            part = list(chosen)
            found, *_ = np.linalg.lstsq(rows_MP[:, part] * roots_M[:, None], roots_M, rcond=None)
            if (found < 0).any():
                continue
            weights_P = np.zeros(rows_MP.shape[1])
            weights_P[part] = found
            error = float((damping_M * (rows_MP @ weights_P - 1) ** 2).sum())
            if error < least:
                best_P, least = weights_P, error
    return best_P
