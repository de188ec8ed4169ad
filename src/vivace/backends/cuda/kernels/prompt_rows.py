"""The rows of a step's prompts, for an implementation of attention that takes them apart from the others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from vivace.ops.backend import Int32Array, StepInputs


@dataclass(frozen=True, slots=True)
class PromptPlan:
    """Of sequences n of a step, on the host: their first rows, how many, contexts, and block tables."""

    firsts_N: Int32Array
    counts_N: Int32Array
    contexts_N: Int32Array
    tables_NX: Int32Array

    def on_device(self, sent: Mapping[str, Tensor]) -> PromptRows:
        """From `prompt_arrays` and "slots", as they were sent."""
        return PromptRows(self, sent["prompt_rows"].long(), sent["slots"].long())


@dataclass(frozen=True, slots=True)
class PromptRows:
    """`rows_R`: all rows of the prompts, int64; `slots_T`: where the keys of every row of the step lie."""

    plan: PromptPlan
    rows_R: Tensor
    slots_T: Tensor


def prompt_plan(inputs: StepInputs, is_prompt_B: NDArray[np.bool_]) -> PromptPlan:
    counts_B = np.diff(inputs.query_starts_B1)
    return PromptPlan(
        inputs.query_starts_B1[:-1][is_prompt_B],
        counts_B[is_prompt_B],
        inputs.context_lens_B[is_prompt_B],
        inputs.block_tables_BX[is_prompt_B],
    )


def prompt_arrays(plan: PromptPlan) -> dict[str, Int32Array]:
    """What the device needs beside what every step has."""
    spans = zip(plan.firsts_N.tolist(), plan.counts_N.tolist(), strict=True)
    rows = [np.arange(first, first + count, dtype=np.int32) for first, count in spans]
    return {"prompt_rows": np.concatenate(rows)}
