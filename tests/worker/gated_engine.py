"""An engine's process that takes no step while a file is there and one of its requests has so many tokens.

Commands are obeyed meanwhile. Started by `Gate` in place of `vivace.worker`: the file and the number come ahead of
the socket's.
"""

from __future__ import annotations

import sys
from pathlib import Path

from vivace.core.sequence import SequenceState
from vivace.worker.engine_loop import EngineLoop
from vivace.worker.process import main

POLL_S = 0.01  # how often it looks whether the file is gone
step = EngineLoop._step


def keep_shut(file: Path, num_tokens: int) -> None:
    def gated_step(self: EngineLoop) -> None:
        sequences = [one for record in self._engine._requests.values() for one in record.sequences]
        is_held = any(one.state is not SequenceState.FINISHED and one.num_output >= num_tokens for one in sequences)
        if is_held and file.exists():
            self._channel.wait(POLL_S)
        else:
            step(self)

    EngineLoop._step = gated_step  # type: ignore[method-assign]


if __name__ == "__main__":
    keep_shut(Path(sys.argv[1]), int(sys.argv[2]))
    sys.exit(main(sys.argv[3:]))
