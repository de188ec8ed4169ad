"""Finds calls in streamed text. One machine for every format; a `CallFrame` says what stands around the calls."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from vivace.serve.tools.call_text import CallSyntax, JsonExtent
from vivace.serve.tools.deltas import ContentDelta, OutputDelta, ToolCallArguments, ToolCallStart
from vivace.serve.tools.markers import num_undecided


@dataclass(frozen=True, slots=True)
class CallFrame:
    """What stands around calls: `marker` `opening` {call} (`separator` {call})* `closing`, with free white space.

    `at_start`: calls come only at the start of the text, and the marker may be missing there.
    """

    marker: str
    opening: str = ""
    separator: str = ""
    closing: str = ""
    at_start: bool = False


class _State(Enum):
    START = "start"  # of a text that must begin with its call
    CONTENT = "content"
    OPENING = "opening"  # the marker is read, the call's brace is not
    CALL = "call"  # its whole text is awaited
    ARGUMENTS = "arguments"  # being streamed
    REST = "rest"  # of the call, after streamed arguments
    AFTER = "after"  # a separator, the closing, or neither


class CallParser:
    """Reads one continuation's text.

    With `streams` the arguments are given out while they arrive, and the head of a call that is cut short is dropped:
    for text that a grammar keeps well-formed. Without, a call is given out when it is complete and right; what is not
    comes out as content, markers included.
    """

    def __init__(self, frame: CallFrame, syntax: CallSyntax, new_id: Callable[[], str], *, streams: bool) -> None:
        self._frame = frame
        self._syntax = syntax
        self._new_id = new_id
        self._streams = streams
        self._state = _State.START if frame.at_start else _State.CONTENT
        self._text = ""  # not decided yet
        self._opening = ""  # what must stand before the call's brace
        self._before = ""  # what becomes content if the call that began turns out to be none
        self._scanned = 0  # characters of _text that the extent has seen
        self._extent = JsonExtent()
        self._deltas: list[OutputDelta] = []
        self._only_space_since_call = False
        self.num_tool_calls = 0

    def push(self, text: str) -> list[OutputDelta]:
        self._text += text
        while self._advance():
            pass
        return self._taken()

    def finish(self) -> list[OutputDelta]:
        held = self._before + self._text
        undecided = self._state in (_State.START, _State.CONTENT, _State.OPENING, _State.CALL)
        if undecided and not (self._only_space_since_call and held.isspace()) and not self._is_cut_short():
            self._add_content(held)
        return self._taken()

    def _is_cut_short(self) -> bool:
        """A call was begun and its tokens ran out before its name was whole. Nothing else can follow its beginning
        where a grammar is enforced."""
        if self._state is _State.CONTENT:  # held after a call: blanks, or the beginning of the next one's marker
            return self._streams and self._only_space_since_call
        has_begun = bool(self._before.strip()) or self._text.startswith('{"name"')
        return self._streams and has_begun and self._state in (_State.OPENING, _State.CALL)

    def _taken(self) -> list[OutputDelta]:
        deltas, self._deltas = self._deltas, []
        return deltas

    def _advance(self) -> bool:
        """One transition. False when more text is needed."""
        match self._state:
            case _State.START:
                return self._read_start()
            case _State.CONTENT:
                return self._read_content()
            case _State.OPENING:
                return self._read_opening()
            case _State.CALL:
                return self._read_call()
            case _State.ARGUMENTS:
                return self._read_arguments()
            case _State.REST:
                return self._read_rest()
            case _State.AFTER:
                return self._read_after()

    def _read_start(self) -> bool:
        body = self._text.lstrip()
        marker = self._frame.marker
        if len(body) < len(marker) and marker.startswith(body):
            return False
        if body.startswith(("{", marker)):
            self._begin(len(self._text) - len(body), marker if body.startswith(marker) else "")
        else:
            self._state = _State.CONTENT
        return True

    def _read_content(self) -> bool:
        marker = self._frame.marker
        found = -1 if self._frame.at_start else self._text.find(marker)
        if found >= 0:
            content = self._text[:found].rstrip()
            self._add_content(content)
            self._text = self._text[len(content) :]
            self._begin(found - len(content), marker)
            return True
        overlap = 0 if self._frame.at_start else num_undecided(self._text, marker)
        decided = len(self._text[: len(self._text) - overlap].rstrip())
        self._add_content(self._text[:decided])
        self._text = self._text[decided:]
        return False

    def _begin(self, num_space: int, marker: str) -> None:
        """A call may follow `num_space` characters of white space and the marker."""
        end = num_space + len(marker)
        self._before, self._text = self._text[:end], self._text[end:]
        self._opening = self._frame.opening
        self._state = _State.OPENING

    def _read_opening(self) -> bool:
        body = self._text.lstrip()
        if len(body) < len(self._opening) and self._opening.startswith(body):
            return False
        inner = body.removeprefix(self._opening).lstrip() if body.startswith(self._opening) else None
        if inner == "":
            return False
        if inner is None or inner[0] != "{":
            return self._refuse("")
        cut = len(self._text) - len(inner)
        self._before, self._text = self._before + self._text[:cut], inner
        self._scanned, self._extent = 0, JsonExtent()
        self._state = _State.CALL
        return True

    def _refuse(self, call: str) -> bool:
        """What was read is no call: it is content."""
        self._add_content(self._before + call)
        self._before = ""
        self._state = _State.CONTENT
        return True

    def _read_call(self) -> bool:
        if self._streams and (head := self._syntax.head(self._text)) is not None:
            name, start = head
            self._add_call(name)
            self._text = self._text[start:]
            self._extent = JsonExtent()
            self._state = _State.ARGUMENTS
            return True
        end = self._extent.end(self._text[self._scanned :])
        if end is None:
            self._scanned = len(self._text)
            return False
        end += self._scanned
        whole, self._text = self._text[:end], self._text[end:]
        call = self._syntax.read(whole)
        if call is None:
            return self._refuse(whole)
        self._add_call(call.name)
        self._add_arguments(call.arguments)
        self._state = _State.AFTER
        return True

    def _read_arguments(self) -> bool:
        end = self._extent.end(self._text)
        self._add_arguments(self._text[:end])
        self._text = "" if end is None else self._text[end:]
        if end is not None:
            self._extent = JsonExtent(depth=1)
            self._state = _State.REST
        return end is not None

    def _read_rest(self) -> bool:
        """Up to the brace that closes the call; other keys may come before it."""
        end = self._extent.end(self._text)
        self._text = "" if end is None else self._text[end:]
        if end is not None:
            self._state = _State.AFTER
        return end is not None

    def _read_after(self) -> bool:
        body = self._text.lstrip()
        for mark in (self._frame.separator, self._frame.closing):
            if mark and body.startswith(mark):
                self._text = body[len(mark) :]
                self._before = mark if mark == self._frame.separator else ""
                self._opening = ""
                self._state = _State.OPENING if mark == self._frame.separator else _State.CONTENT
                return True
            if mark.startswith(body) and mark:
                return False
        self._state = _State.CONTENT
        return True

    def _add_content(self, text: str) -> None:
        if text:
            self._deltas.append(ContentDelta(text))
            self._only_space_since_call = False

    def _add_call(self, name: str) -> None:
        self._before = ""
        self._only_space_since_call = True
        self._deltas.append(ToolCallStart(self.num_tool_calls, self._new_id(), name))
        self.num_tool_calls += 1

    def _add_arguments(self, text: str) -> None:
        if text:
            self._deltas.append(ToolCallArguments(self.num_tool_calls - 1, text))
