"""Patterns over module names that come with a checkpoint, matched in linear time.

Python's `re` can take for ever on a pattern that somebody else wrote (`(a+)+$`). This is Thompson's construction
(https://swtch.com/~rsc/regexp/regexp1.html): all positions of the pattern that the name so far can reach, at once.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from os import PathLike
from typing import Literal

from vivace.core.errors import ModelFileError

MAX_PATTERN_LENGTH = 256  # deep groups stay under Python's limit of recursion
MAX_STEPS = 1024  # counted repeats are written out
_MAX_KNOWN_MOVES = 1 << 16  # some 10 MB
_COUNTS = re.compile(r"\{(\d{1,3})(?:(,)(\d{1,3})?)?\}")
_CLASS = re.compile(r"\[\^?\]?(?:[^\]\\]|\\.)*\]")
_ESCAPES = re.compile(r"\\[dDwWsS\W_]")
_Places = frozenset[int]


@dataclass(frozen=True, slots=True)
class _Step:
    """`character`: go on if it is that one; `fork`: go on at each relative target; `start`, `end`: only there."""

    kind: Literal["character", "fork", "start", "end"]
    character: re.Pattern[str] | None = None
    targets: tuple[int, ...] = ()


class NamePattern:
    """A regular expression without look-around, references and flags. It has to fit from a name's start, as with
    `re.match`, and may end before the name does.
    """

    def __init__(self, text: str) -> None:
        """Raises ValueError or re.error for a pattern that cannot be used."""
        self.text = text
        self._steps = _Parser(text).parse()
        self._first = self._reachable({0}, "start")
        self._fits_nothing = len(self._steps) in self._reachable({0}, "start", "end")
        self._moves: dict[tuple[_Places, str], _Places] = {}

    @classmethod
    def parse(cls, text: str, path: str | PathLike[str], field: str) -> NamePattern:
        """Raises ModelFileError naming `field` of the file `path` for a pattern that cannot be used."""
        try:
            return cls(text)
        except (ValueError, re.error) as error:
            reason = f"the pattern {text!r:.120} is not supported: {error}; name the modules instead"
            raise ModelFileError(path, reason, field=field) from error

    def fits(self, name: str) -> bool:
        if not name:
            return self._fits_nothing
        places, goal = self._first, len(self._steps)
        for character in name:
            if goal in places:
                return True
            if not places:
                return False
            places = self._move(places, character)
        return goal in self._reachable(places, "end")

    def _move(self, places: _Places, character: str) -> _Places:
        """Where one character leads; remembered, because many names share their parts."""
        known = self._moves.get((places, character))
        if known is None:
            steps = [(place, self._steps[place].character) for place in places]
            fitting = {place + 1 for place, wanted in steps if wanted is not None and wanted.match(character)}
            known = self._reachable(fitting)
            if len(self._moves) < _MAX_KNOWN_MOVES:
                self._moves[places, character] = known
        return known

    def _reachable(self, places: Iterable[int], *anchors: str) -> _Places:
        """All places to get to from `places` without a character, at the `start` or `end` of the name or inside."""
        waiting, reached = list(places), set(places)
        while waiting:
            place = waiting.pop()
            if place == len(self._steps):
                continue
            step = self._steps[place]
            targets = (1,) if step.kind in anchors else step.targets
            fresh = {place + target for target in targets} - reached
            reached |= fresh
            waiting.extend(fresh)
        return frozenset(reached)


class _Parser:
    """Recursive descent: alternatives of sequences of repeated atoms."""

    def __init__(self, text: str) -> None:
        if len(text) > MAX_PATTERN_LENGTH:
            raise ValueError(f"{len(text)} characters, {MAX_PATTERN_LENGTH} at most")
        self.text = text
        self.position = 0

    def parse(self) -> list[_Step]:
        steps = self._alternatives()
        if self.position < len(self.text):
            raise ValueError("a ) without its (")
        return self._bounded(steps)

    def _alternatives(self) -> list[_Step]:
        steps = self._sequence()
        while self._take("|"):
            other = self._sequence()
            steps = [_fork(1, len(steps) + 2), *steps, _fork(len(other) + 1), *other]
        return steps

    def _sequence(self) -> list[_Step]:
        steps: list[_Step] = []
        while self.position < len(self.text) and self.text[self.position] not in "|)":
            steps = self._bounded(steps + self._repeated(self._atom()))
        return steps

    def _repeated(self, atom: list[_Step]) -> list[_Step]:
        least, most = self._counts()
        if (least, most) == (1, 1):
            return atom
        if self._take("?") or self.text[self.position : self.position + 1] not in tuple("*+{"):
            optional = [_fork(1, len(atom) + 1), *atom]
            loop = [_fork(1, len(atom) + 2), *atom, _fork(-len(atom) - 1)]
            return self._bounded(atom * least + (loop if most is None else optional * (most - least)))
        raise ValueError("a repeat of a repeat")

    def _bounded(self, steps: list[_Step]) -> list[_Step]:
        if len(steps) > MAX_STEPS:
            raise ValueError("it is too long when its repeats are written out")
        return steps

    def _counts(self) -> tuple[int, int | None]:
        """How often the atom before this may stand; None: without end."""
        if self._take("*"):
            return 0, None
        if self._take("+"):
            return 1, None
        if self._take("?"):
            return 0, 1
        found = _COUNTS.match(self.text, self.position)
        if found is None:
            return 1, 1
        self.position = found.end()
        least = int(found[1])
        most = least if found[2] is None else None if found[3] is None else int(found[3])
        if most is not None and most < least:
            raise ValueError("a repeat that counts down")
        return least, most

    def _atom(self) -> list[_Step]:
        if self._take("^"):
            return [_Step("start")]
        if self._take("$"):
            return [_Step("end")]
        if self._take("("):
            if not self._take("?:") and self._take("?"):
                raise ValueError("groups that begin with (? are not served")
            steps = self._alternatives()
            if not self._take(")"):
                raise ValueError("a ( without its )")
            return steps
        return [_Step("character", re.compile(self._character(), re.DOTALL))]

    def _character(self) -> str:
        """The expression of one character: a class, an escape, a dot or itself."""
        first = self.text[self.position]
        if first in "*+?{":
            raise ValueError(f"nothing before {first}")
        if first in "[\\":
            found = (_CLASS if first == "[" else _ESCAPES).match(self.text, self.position)
            if found is None:
                raise ValueError(f"{self.text[self.position : self.position + 2]} is not served")
            self.position = found.end()
            return found[0]
        self.position += 1
        return first if first == "." else re.escape(first)

    def _take(self, mark: str) -> bool:
        if not self.text.startswith(mark, self.position):
            return False
        self.position += len(mark)
        return True


def _fork(*targets: int) -> _Step:
    return _Step("fork", targets=targets)
