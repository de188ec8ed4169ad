"""Server-sent events out of bytes that come in any pieces (WHATWG HTML, 9.2.6)."""

from __future__ import annotations

from typing import NamedTuple

from vivace.core.errors import TargetError

MAX_LINE_BYTES = 16 << 20  # of an event's line: a server that never ends one must not fill the memory


class Event(NamedTuple):
    name: str  # "message" where the server gives none
    data: bytes


class EventParser:
    """Feed it what came; it gives the events that are whole. Lines end in LF or CR LF."""

    def __init__(self) -> None:
        self._rest = b""
        self._data: list[bytes] = []
        self._name = "message"

    def feed(self, data: bytes) -> list[Event]:
        """Raises `TargetError` for a line without end."""
        *lines, self._rest = (self._rest + data if self._rest else data).split(b"\n")
        if len(self._rest) > MAX_LINE_BYTES:
            raise TargetError(f"the server sends an event of more than {MAX_LINE_BYTES >> 20} MiB without an end")
        events = []
        for line in lines:
            bare = line.removesuffix(b"\r")
            if bare:
                self._take(bare)
            elif self._data:
                events.append(Event(self._name, b"\n".join(self._data)))
                self._data, self._name = [], "message"
            else:
                self._name = "message"
        return events

    def _take(self, line: bytes) -> None:
        field, _, value = line.partition(b":")
        if field == b"data":
            self._data.append(value.removeprefix(b" "))
        elif field == b"event":
            self._name = value.removeprefix(b" ").decode("utf-8", "replace")
