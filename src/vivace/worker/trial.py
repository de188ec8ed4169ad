"""One constraint, compiled in a forked child that may die of it: limits of memory and processor time hold there."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from vivace.core.errors import RequestError
from vivace.core.structured_outputs import StructuredOutputs
from vivace.engine.structured_output import ConstraintCompiler

CPU_LIMIT_S = 0.2  # an ordinary schema takes 0.002, an enumeration of 12,000 texts 0.05
WALL_LIMIT_S = 0.9
MEMORY_LIMIT_BYTES = 128 * 2**20  # beyond what the tokenizer takes
_ACCEPTED = b"+"
_MAX_ANSWER_BYTES = 4096
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True, slots=True)
class TrialResult:
    """`outcome` as in `Verdict`."""

    outcome: str
    message: str = ""


class Trial:
    """A child that compiles. Its pipe becomes readable when it has answered or died."""

    def __init__(self, compiler: ConstraintCompiler, outputs: StructuredOutputs) -> None:
        self.deadline = time.monotonic() + WALL_LIMIT_S
        self._kind = outputs.kind
        self.pipe, theirs = os.pipe()
        self._pid = os.fork()
        if self._pid == 0:
            os.close(self.pipe)
            _compile_and_leave(compiler, outputs, theirs)
        os.close(theirs)

    def result(self) -> TrialResult:
        """How it went; ends the child if it has not answered. Call once."""
        is_late = time.monotonic() >= self.deadline
        if is_late:
            os.kill(self._pid, signal.SIGKILL)
        answer = os.read(self.pipe, _MAX_ANSWER_BYTES)
        os.close(self.pipe)
        _, status = os.waitpid(self._pid, 0)
        if answer == _ACCEPTED:
            return TrialResult("accepted")
        if answer:
            return TrialResult("refused", answer.decode(errors="replace"))
        if is_late and os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
            return TrialResult("late")
        is_slow = os.WIFSIGNALED(status) and os.WTERMSIG(status) in (signal.SIGPROF, signal.SIGXCPU)
        reason = f"more than {CPU_LIMIT_S} s" if is_slow else f"more than {MEMORY_LIMIT_BYTES >> 20} MB"
        return TrialResult("refused", f"the {self._kind} is too complex: compiling it takes {reason}")


def _compile_and_leave(compiler: ConstraintCompiler, outputs: StructuredOutputs, pipe: int) -> NoReturn:
    """In the child: answer, then end without any of the parent's clean-up."""
    try:
        _limit_this_process()
        try:
            compiler.compile(outputs)
            answer = _ACCEPTED
        except RequestError as error:
            answer = str(error).encode()[:_MAX_ANSWER_BYTES]
        os.write(pipe, answer)
    finally:
        os._exit(0)


def _limit_this_process() -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        num_pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = num_pages * resource.getpagesize() + MEMORY_LIMIT_BYTES
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CPU, (2, 2))  # should the timer be blocked
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 2)  # what the library prints when memory is out
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_PROF, CPU_LIMIT_S)
