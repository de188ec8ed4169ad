"""Holds an engine in the middle of its requests, so that no test has to be quicker than it is."""

from __future__ import annotations

import sys
from pathlib import Path

NUM_TOKENS = 5  # of a request that is held


class Gate:
    """Shut at first. An engine started with `command` takes no step, as long as it is, once a request has
    `NUM_TOKENS` tokens; nor does the next one, after a restart."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "gate"
        self._file.touch()
        engine = Path(__file__).with_name("gated_engine.py")
        self.command = (sys.executable, str(engine), str(self._file), str(NUM_TOKENS))

    def open(self) -> None:
        self._file.unlink()
