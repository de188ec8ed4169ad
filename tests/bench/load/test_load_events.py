"""Server-sent events in any pieces."""

from __future__ import annotations

import pytest

from vivace.bench.load import events
from vivace.bench.load.events import Event, EventParser
from vivace.core.errors import TargetError

STREAM = (
    b"data: one\n\n: a comment\n\ndata: two\ndata:  lines\r\n\r\nevent: error\ndata: \xc3\xa9\n\nid: 3\n\n"
    b"data\n\ndata: last\n\n"
)
EXPECTED = [
    Event("message", b"one"),
    Event("message", b"two\n lines"),
    Event("error", "é".encode()),
    Event("message", b""),
    Event("message", b"last"),
]


@pytest.mark.parametrize("cut", range(len(STREAM)))
def test_cut_anywhere(cut: int) -> None:
    parser = EventParser()
    assert parser.feed(STREAM[:cut]) + parser.feed(STREAM[cut:]) == EXPECTED


def test_byte_by_byte() -> None:
    parser = EventParser()
    assert [event for byte in STREAM for event in parser.feed(bytes([byte]))] == EXPECTED


def test_a_line_without_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "MAX_LINE_BYTES", 100)
    parser = EventParser()
    parser.feed(b"data: " + b"x" * 90)
    with pytest.raises(TargetError, match="without an end"):
        parser.feed(b"x" * 90)
