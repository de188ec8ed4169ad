"""The tokens of a step: on the device for the next one, and on their way to the host.

Shape letters: S rows, V vocabulary, K most likely tokens wanted.
"""

from __future__ import annotations

import numpy as np
from torch import Tensor

from vivace.backends.cuda import logprobs, sampling
from vivace.backends.cuda.transfer import Arrival, Upload
from vivace.core.errors import EngineError
from vivace.ops.backend import Drawn, Int32Array, SampleInputs, TopLogprobs


class DrawnTokens:
    """`tokens_S` is the device's."""

    def __init__(self, tokens_S: Tensor, table: Tensor | None, k: int) -> None:
        self.tokens_S = tokens_S
        self._has_table = table is not None
        self._arrival = Arrival(tokens_S if table is None else table)
        self._k = k

    def read(self) -> tuple[Int32Array, TopLogprobs | None]:
        """Wait for the tokens."""
        values = self._arrival.read()
        return logprobs.read_table(values, self._k) if self._has_table else (values.astype(np.int32), None)


def draw(logits_SV: Tensor, inputs: SampleInputs, num_logprobs: int | None, upload: Upload) -> DrawnTokens:
    """One token for each row. Raises `EngineError` for arrays that do not fit; launches, and waits for nothing."""
    num_rows, vocabulary = logits_SV.shape
    sampling.check(inputs, num_rows, vocabulary)
    tokens_S = sampling.sample(logits_SV, inputs, drawn_tokens(inputs.drawn), upload)
    if num_logprobs is None:
        return DrawnTokens(tokens_S, None, 0)
    logprobs.check(np.zeros(num_rows, np.int32), num_rows, num_logprobs, vocabulary)
    return DrawnTokens(tokens_S, logprobs.table_of(logits_SV, tokens_S, num_logprobs), num_logprobs)


def drawn_tokens(drawn: Drawn | None) -> Tensor | None:
    """The device's tensor of what the last step drew."""
    if drawn is None:
        return None
    if not isinstance(drawn, DrawnTokens):
        raise EngineError(f"what was drawn belongs to another backend: {type(drawn).__name__}")
    return drawn.tokens_S
