"""The tokens of a step: on the device for the next one, and on their way to the host.

Shape letters: S rows, V vocabulary, K most likely tokens wanted.
"""

from __future__ import annotations

import numpy as np
from torch import Tensor

from vivace.backends.cuda import logprobs, sampling
from vivace.backends.cuda.kernels.case import RowCase
from vivace.backends.cuda.kernels.provider import SamplingKernels, sampling_kernels
from vivace.backends.cuda.kernels.registry import KernelRegistry
from vivace.backends.cuda.sampling_rows import send_rows
from vivace.backends.cuda.sparse_rows import adjusted
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


class Sampler:
    """Chooses between Triton's kernels and torch's operations, for each call as the registry says."""

    def __init__(self, registry: KernelRegistry, upload: Upload) -> None:
        self._registry = registry
        self._upload = upload

    def sample(self, logits_SV: Tensor, inputs: SampleInputs) -> Tensor:
        """Token ids [S] on the device."""
        drawn_S = drawn_tokens(inputs.drawn)
        kernels = self._kernels("sampling", logits_SV)
        if kernels is None:
            return sampling.sample(logits_SV, inputs, drawn_S, self._upload)
        rows = send_rows(inputs, slice(0, len(logits_SV)), drawn_S, self._upload)
        columns = (rows.floats("temperature"), rows["top_k"], *map(rows.floats, ("top_p", "min_p", "uniform")))
        return kernels.draw(adjusted(logits_SV, rows), *columns)

    def table_of(self, logits_SV: Tensor, tokens_S: Tensor, k: int) -> Tensor:
        """`logprobs.table_of`."""
        kernels = self._kernels("top_tokens", logits_SV)
        compute = logprobs.table_of if kernels is None else kernels.top_tokens
        return compute(logits_SV, tokens_S, k)

    def _kernels(self, name: str, logits_SV: Tensor) -> SamplingKernels | None:
        case = RowCase(name, str(logits_SV.dtype).removeprefix("torch."), logits_SV.shape[1])
        return sampling_kernels() if self._registry.takes(case) else None


def draw(logits_SV: Tensor, inputs: SampleInputs, num_logprobs: int | None, sampler: Sampler) -> DrawnTokens:
    """One token for each row. Raises `EngineError` for arrays that do not fit; launches, and waits for nothing."""
    num_rows, vocabulary = logits_SV.shape
    sampling.check(inputs, num_rows, vocabulary)
    tokens_S = sampler.sample(logits_SV, inputs)
    if num_logprobs is None:
        return DrawnTokens(tokens_S, None, 0)
    logprobs.check(np.zeros(num_rows, np.int32), num_rows, num_logprobs, vocabulary)
    return DrawnTokens(tokens_S, sampler.table_of(logits_SV, tokens_S, num_logprobs), num_logprobs)


def drawn_tokens(drawn: Drawn | None) -> Tensor | None:
    """The device's tensor of what the last step drew."""
    if drawn is None:
        return None
    if not isinstance(drawn, DrawnTokens):
        raise EngineError(f"what was drawn belongs to another backend: {type(drawn).__name__}")
    return drawn.tokens_S
