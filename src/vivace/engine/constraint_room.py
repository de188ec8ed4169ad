"""Where requests wait until their constraint is compiled: the engine's loop goes on meanwhile."""

from __future__ import annotations

import os
import sys
import threading
from collections import OrderedDict
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vivace.core.errors import RequestError
from vivace.core.sequence import Sequence, SequenceState
from vivace.core.structured_outputs import StructuredOutputs
from vivace.engine.tokenizer import Tokenizer

if TYPE_CHECKING:
    from vivace.engine.structured_output import CompiledConstraint, ConstraintCompiler

MAX_KEPT = 32  # compiled constraints; the largest that is accepted takes some 30 MB
NICENESS = 5
POLL_S = 0.001  # how often a loop with nothing else to do looks for one that is ready


@dataclass(slots=True)
class HeldRequest:
    """Sequences of one request that may not run before `compiled` is done."""

    sequences: list[Sequence]
    compiled: Future[CompiledConstraint]


class ConstraintRoom:
    """Compiles on a thread of its own, keeps what was compiled last, and holds the requests that wait for it."""

    def __init__(self, tokenizer: Tokenizer | None, eos_ids: frozenset[int]) -> None:
        self._tokenizer = tokenizer
        self._eos_ids = eos_ids
        self._compiler: ConstraintCompiler | None = None
        self._thread: ThreadPoolExecutor | None = None
        self._kept: OrderedDict[StructuredOutputs, Future[CompiledConstraint]] = OrderedDict()
        self._held: list[HeldRequest] = []

    def prepare(self) -> None:
        """Build what compiling needs, now: for 152,000 tokens that takes 2 s and holds Python's lock all the while,
        which a running engine would notice. Does nothing without a tokenizer."""
        if self._tokenizer is not None:
            self._compiler_of(self._tokenizer)

    def compile(self, outputs: StructuredOutputs) -> Future[CompiledConstraint]:
        """The compiled constraint, or its `RequestError`, at once where it is known. Raises `RequestError` without
        a tokenizer."""
        if self._tokenizer is None:
            raise RequestError("structured_outputs needs a model with a tokenizer", param="structured_outputs")
        compiled = self._kept.get(outputs)
        if compiled is None or _is_spent(compiled):
            self._thread = self._thread or ThreadPoolExecutor(1, "vivace-constraints", _step_back)
            compiled = self._kept[outputs] = self._thread.submit(self._compile, self._tokenizer, outputs)
            if len(self._kept) > MAX_KEPT:
                self._kept.popitem(last=False)
        self._kept.move_to_end(outputs)
        return compiled

    def hold(self, sequences: list[Sequence], outputs: StructuredOutputs) -> None:
        """Keep the sequences until their constraint is compiled. Raises `RequestError`."""
        self._held.append(HeldRequest(sequences, self.compile(outputs)))

    def take_ready(self) -> list[HeldRequest]:
        """Those whose constraint is compiled, or refused, in the order in which they came."""
        if not self._held:
            return []
        done = [one.compiled.done() for one in self._held]  # asked once: one may be done a moment later
        ready = [one for one, is_done in zip(self._held, done, strict=True) if is_done]
        self._held = [one for one, is_done in zip(self._held, done, strict=True) if not is_done]
        return ready

    def drop(self, sequence: Sequence) -> bool:
        """End a sequence that is held; False where it is not."""
        for one in self._held:
            if sequence in one.sequences:
                one.sequences.remove(sequence)
                sequence.state = SequenceState.FINISHED
                return True
        return False

    @property
    def idle_s(self) -> float | None:
        """Seconds until it is worth looking again: 0 now, None never."""
        if not self._held:
            return None
        return 0.0 if any(one.compiled.done() for one in self._held) else POLL_S

    def _compile(self, tokenizer: Tokenizer, outputs: StructuredOutputs) -> CompiledConstraint:
        return self._compiler_of(tokenizer).compile(outputs)

    def _compiler_of(self, tokenizer: Tokenizer) -> ConstraintCompiler:
        from vivace.engine.structured_output import ConstraintCompiler

        if self._compiler is None:
            self._compiler = ConstraintCompiler(tokenizer, self._eos_ids)
        return self._compiler


def _step_back() -> None:
    """Let the threads that compute steps go first. Linux gives each thread its own priority."""
    if sys.platform == "linux":
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)


def _is_spent(compiled: Future[CompiledConstraint]) -> bool:
    return compiled.done() and compiled.exception() is None and compiled.result().is_spent
