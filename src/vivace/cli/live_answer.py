"""An answer in a terminal, with a status line under it while it grows."""

from __future__ import annotations

from types import TracebackType

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text


class LiveAnswer:
    """Finished lines scroll away as plain text; the line being written and the status are redrawn in place."""

    def __init__(self) -> None:
        self._console = Console(highlight=False, markup=False, emoji=False)
        self._line = ""
        self._status = ""
        self._live = Live(console=self._console, refresh_per_second=12, vertical_overflow="visible")

    def __enter__(self) -> LiveAnswer:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.update(self._view())
        self._live.stop()

    def add(self, text: str, status: str) -> None:
        *finished, self._line = (self._line + text).split("\n")
        for line in finished:
            self._console.print(Text(line))
        self._status = status
        self._live.update(self._view())

    def _view(self) -> Group:
        return Group(Text(self._line), Text(self._status, style="dim"))
