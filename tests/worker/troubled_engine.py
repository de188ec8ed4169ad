"""An engine's process in which some prompts do harm: it stands in for the bugs that we do not know of.

Started by tests in place of `vivace.worker`, with a folder ahead of the socket's number: a file in it named by the
process's number says that it hangs. The first token of a prompt says what happens when it is computed, or, with a
number of tokens emitted, when that many are there.
"""

from __future__ import annotations

import os
import resource
import signal
import sys
import threading
from pathlib import Path
from typing import Any

from vivace.core.step import StepPlan
from vivace.runtime.runner import Runner, StepResult
from vivace.worker.process import main

DIE, RAISE, HANG, NOT_FINITE, DIE_AT_5 = 300, 301, 302, 303, 304
run: Any = Runner.run


def troubled_run(self: Runner, plan: StepPlan) -> StepResult:
    for item in plan.scheduled:
        first = item.sequence.tokens[0]
        if first == DIE or (first == DIE_AT_5 and item.sequence.num_output == 5):
            os.kill(os.getpid(), signal.SIGSEGV)
        elif first == RAISE:
            raise ZeroDivisionError("a bug in a step")
        elif first == HANG:
            (Path(sys.argv[1]) / str(os.getpid())).touch()
            threading.Event().wait()
    result: StepResult = run(self, plan)
    for row, sequence in enumerate(result.sequences):
        if sequence.tokens[0] == NOT_FINITE and sequence.num_output == 3:
            result.tokens[row] = -1
    return result


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # no core files of deaths that are meant
    Runner.run = troubled_run  # type: ignore[method-assign]
    sys.exit(main(sys.argv[2:]))
