"""The reference backend, as if it ran on a device: what was drawn is known to the host only once it is read.

Notes the order of things: ("run", n) when the n-th step is launched, ("read", n) when the host waits for its tokens.
A step's logits are spoilt when the next one is launched, as a device's are overwritten.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from vivace.backends.reference.backend import ReferenceBackend
from vivace.ops.backend import Int32Array, KVCache, SampleInputs, StepInputs, StepLimits, TopLogprobs
from vivace.ops.program import Program


@dataclass
class LateTokens:
    tokens_S: Int32Array  # the device's own: the host may not look
    top: TopLogprobs | None
    number: int
    log: list[tuple[str, int]]

    def read(self) -> tuple[Int32Array, TopLogprobs | None]:
        self.log.append(("read", self.number))
        return self.tokens_S, self.top


class AsynchronousReference(ReferenceBackend):
    """`log` is empty at first."""

    def __init__(self) -> None:
        super().__init__(np.float64)
        self.log: list[tuple[str, int]] = []
        self.num_runs = 0
        self.last_drawn: LateTokens | None = None

    def compile(self, program: Program, kv_cache: KVCache, limits: StepLimits) -> Any:
        return _LateExecutable(super().compile(program, kv_cache, limits), self)

    def draw(self, logits: Any, inputs: SampleInputs, num_logprobs: int | None) -> LateTokens:
        tokens_S = self.sample(logits, _with_drawn(inputs))
        top = None if num_logprobs is None else self.top_logprobs(logits, tokens_S, num_logprobs)
        self.last_drawn = LateTokens(tokens_S, top, self.num_runs, self.log)
        return self.last_drawn

    def step_bytes(self, *_: Any) -> int:
        """The memory is the machine's."""
        return 0

    def prepare(self, *_: Any) -> None:
        """Nothing is recorded."""


class _LateExecutable:
    def __init__(self, executable: Any, backend: AsynchronousReference) -> None:
        self._executable = executable
        self._backend = backend
        self._last: Any = np.zeros(0)

    def run(self, inputs: StepInputs) -> Any:
        self._backend.num_runs += 1
        self._backend.log.append(("run", self._backend.num_runs))
        self._last[...] = np.nan
        if inputs.drawn_rows_T is not None:
            assert isinstance(inputs.drawn, LateTokens)
            assert inputs.drawn is self._backend.last_drawn
            rows = np.maximum(inputs.drawn_rows_T, 0)
            drawn_T = np.maximum(inputs.drawn.tokens_S[rows], 0)
            inputs = replace(
                inputs, token_ids_T=np.where(inputs.drawn_rows_T >= 0, drawn_T, inputs.token_ids_T).astype(np.int32)
            )
        assert inputs.token_ids_T.min() >= 0
        self._last = np.array(self._executable.run(inputs))
        return self._last


def _with_drawn(inputs: SampleInputs) -> SampleInputs:
    """With each row's missing token in its history."""
    if inputs.drawn_rows_S is None:
        return inputs
    assert isinstance(inputs.drawn, LateTokens)
    tokens, counts, starts = [], [], [0]
    for row, drawn_row in enumerate(inputs.drawn_rows_S.tolist()):
        span = slice(inputs.history_starts_S1[row], inputs.history_starts_S1[row + 1])
        known = dict(zip(inputs.history_tokens[span].tolist(), inputs.history_counts[span].tolist(), strict=True))
        if drawn_row >= 0 and (token := int(inputs.drawn.tokens_S[drawn_row])) >= 0:
            known[token] = known.get(token, 0) + 1
        tokens.extend(known)
        counts.extend(known.values())
        starts.append(len(tokens))
    return replace(
        inputs,
        history_starts_S1=np.array(starts, np.int32),
        history_tokens=np.array(tokens, np.int32),
        history_counts=np.array(counts, np.int32),
    )
