"""One vector for a whole prompt: pooling of its hidden states.

Shape letters: S rows, D hidden width.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable

import numpy as np

from vivace.core.errors import EngineError
from vivace.core.events import EmbeddingOutput, RequestOutput
from vivace.core.sampling import SamplingParams
from vivace.core.sequence import Pooling
from vivace.ops.backend import Float32Array

POOLING_PARAMS = SamplingParams(max_tokens=0)  # no token is generated


class PooledStates:
    """The hidden states of one prompt, as its chunks come.

    "mean" adds the rows in float64, one by one in order of position, "last" keeps the last one: how the prompt was
    cut into chunks, what ran beside it and whether it was preempted changes no bit.
    """

    def __init__(self, pooling: Pooling) -> None:
        self._pooling = pooling
        self._num_rows = 0
        self._total_D = np.zeros(0)

    def add(self, start: int, rows_SD: Float32Array) -> None:
        """Rows from position `start`. Position 0 begins anew: the prompt was preempted and is computed again."""
        if self._pooling == "last":
            self._total_D, self._num_rows = rows_SD[-1].astype(np.float64), 1
            return
        if start == 0:
            self._total_D, self._num_rows = np.zeros(rows_SD.shape[1]), 0
        if start != self._num_rows:
            raise EngineError(f"hidden states from position {start} follow {self._num_rows} pooled ones")
        for row_D in rows_SD:  # NumPy's own sum may pair rows, in an order that depends on their number
            self._total_D += row_D
        self._num_rows += len(rows_SD)

    def vector(self) -> list[float] | None:
        """The pooled vector [D], of float32 values; None where it is not finite."""
        with np.errstate(over="ignore", invalid="ignore"):
            pooled_D = (self._total_D / self._num_rows).astype(np.float32)
        return pooled_D.tolist() if np.isfinite(pooled_D).all() else None


def unit_vector(vector: Iterable[float]) -> list[float]:
    """The vector divided by its Euclidean length, of float32 values. A zero vector stays what it is."""
    values = list(vector)
    length = math.sqrt(math.fsum(value * value for value in values))
    return array("f", (value / length for value in values)).tolist() if length > 0 else values


def embedding_output(output: RequestOutput, embedding: list[float] | None, *, normalize: bool) -> EmbeddingOutput:
    """What a pooled request brought; `normalize` scales it to length 1. Raises `EngineError` where there is none."""
    if embedding is None:
        raise EngineError(f"no embedding: {output.outputs[0].stop_reason or output.outputs[0].finish_reason}")
    vector = unit_vector(embedding) if normalize else embedding
    return EmbeddingOutput(output.prompt, output.prompt_token_ids, vector, output.num_cached_tokens)
