"""Typical acceptance (Cai et al., 2024, section 2.3.1): a guess stands that is likely enough, sampled or not.

A guess x behind a row stands if p(x) > min(threshold, alpha * exp(-H(p))), p being the model's distribution at the
request's temperature and H its entropy: a confident model accepts little beside its favourite, a doubtful one much.
What top-k, top-p or min-p would not draw does not stand. Of several paths the longest stands, of these the best
guessed. The texts are no longer distributed as without speculation, and depend on what was guessed. Requests at
temperature 0, and those with penalties, biases or a minimum of tokens, are verified exactly.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from vivace.core.sampling import SamplingParams
from vivace.core.sequence import Sequence
from vivace.core.speculation import SpeculativeConfig
from vivace.core.step import ScheduledSequence, StepPlan
from vivace.ops.backend import Int32Array
from vivace.runtime.runner import Judge


def make_judge(config: SpeculativeConfig | None) -> Judge | None:
    """None where acceptance is exact."""
    if config is None or config.acceptance == "exact":
        return None
    return TypicalAcceptance(config.posterior_threshold, config.posterior_alpha)


class TypicalAcceptance:
    """Puts a guess in the place of the sampled token where it stands: verification by equality then finds it."""

    def __init__(self, threshold: float, alpha: float) -> None:
        self._threshold = threshold
        self._alpha = alpha

    def __call__(self, plan: StepPlan, logits: Any, token_S: Int32Array) -> None:
        first = 0
        for item in plan.scheduled:
            if not item.samples:
                continue
            if item.draft and _is_judged(item.sequence):
                self._judge(item, logits, token_S, first)
            first += 1 + len(item.draft) + len(item.forks)

    def _judge(self, item: ScheduledSequence, logits: Any, token_S: Int32Array, first: int) -> None:
        """`first`: the row behind the last known token; guess g has row first + 1 + g."""
        parents = range(-1, len(item.draft) - 1) if item.tree is None else item.tree.parents
        params = item.sequence.params
        depths: list[int] = []  # of each guess that stands; 0 for the others
        stands: dict[int, NDArray[np.bool_]] = {}
        for token, parent in zip(item.draft, parents, strict=True):
            depth = depths[parent] if parent >= 0 else 0
            if parent >= 0 and not depth:
                depths.append(0)
                continue
            if parent not in stands:
                stands[parent] = self.standing(logits[first + 1 + parent], params)
            depths.append(depth + 1 if stands[parent][token] else 0)
        if not any(depths):
            return
        guess = depths.index(max(depths))
        while guess >= 0:
            token_S[first + 1 + parents[guess]] = item.draft[guess]
            guess = parents[guess]

    def standing(self, logits_V: NDArray[np.float32], params: SamplingParams) -> NDArray[np.bool_]:
        """[V]: which tokens would stand behind a row with these logits."""
        scaled = logits_V.astype(np.float64) / params.temperature
        weights = np.exp(scaled - scaled.max())
        probabilities = weights / weights.sum()
        surprise = np.log(probabilities, out=np.zeros_like(probabilities), where=probabilities > 0)
        entropy = -float(probabilities @ surprise)
        stands: NDArray[np.bool_] = probabilities > min(self._threshold, self._alpha * np.exp(-entropy))
        order = np.argsort(-probabilities, kind="stable")
        kept = np.ones(len(order), bool)
        if params.top_k:
            kept[params.top_k :] = False
        kept &= probabilities[order] >= params.min_p * probabilities[order[0]]
        in_order = probabilities[order] * kept
        kept &= np.cumsum(in_order) - in_order < params.top_p * in_order.sum()
        stands[order[~kept]] = False
        return stands


def _is_judged(sequence: Sequence) -> bool:
    params = sequence.params
    plain = not (params.is_greedy or params.has_penalties or params.logit_bias or params.min_tokens)
    return plain and sequence.constraint is None
