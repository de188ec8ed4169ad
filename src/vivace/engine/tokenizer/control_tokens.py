"""Control tokens in text: where a template's own text means a token and where a user only wrote its name.

A user's text may hold the name of a control token ("<|im_end|>"), whole or cut in two over message parts that a
template joins. `shield` marks such places with lone surrogates, which valid UTF-8 input can never contain; the
markers travel through the template and `split` finds only the unmarked names, then removes the markers.
What stands between control tokens is encoded as one piece, so merges at the seam of template and user text are
those of the plain text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

NOT_A_START = "\udffe"  # the text that follows does not begin a control token
NOT_AN_END = "\udfff"  # the text before does not end one
_MARKERS = re.compile(f"[{NOT_A_START}{NOT_AN_END}]")
MAX_NAME_CHARS = 256


@dataclass(frozen=True, slots=True)
class ControlToken:
    """A token that steers the model. `strips_left`/`strips_right`: white space beside its name belongs to it."""

    token_id: int
    name: str
    strips_left: bool = False
    strips_right: bool = False


class ControlTokens:
    """The control tokens of one vocabulary, by name."""

    def __init__(self, tokens: list[ControlToken]) -> None:
        self._by_name: Mapping[str, ControlToken] = {token.name: token for token in tokens if token.name}
        self.name_of: Mapping[int, str] = {token.token_id: token.name for token in tokens}
        self.ids = frozenset(self.name_of)
        self.strip_spaces = any(token.strips_left or token.strips_right for token in tokens)
        names = self._by_name.keys()
        alternatives = _alternatives(frozenset(names))
        self._name = re.compile(f"(?<!{NOT_A_START})(?:{alternatives})(?!{NOT_AN_END})") if names else None
        self._occurrence = re.compile(f"(?={alternatives})") if names else None
        self._prefixes = frozenset(name[:end] for name in names for end in range(1, len(name)))
        self._suffixes = frozenset(name[start:] for name in names for start in range(1, len(name)))
        self._longest = max(map(len, names), default=0)

    def id_of(self, name: str) -> int | None:
        token = self._by_name.get(name)
        return None if token is None else token.token_id

    def split(self, text: str) -> Iterator[str | int]:
        """Plain text pieces (never empty, markers removed) and control token ids, in order."""
        start = 0
        for match in self._name.finditer(text) if self._name else ():
            token = self._by_name[match[0]]
            before = text[start : match.start()]
            piece = _MARKERS.sub("", before.rstrip() if token.strips_left else before)
            if piece:
                yield piece
            yield token.token_id
            start = match.end()
            if token.strips_right:
                start = len(text) - len(text[start:].lstrip())
        rest = _MARKERS.sub("", text[start:])
        if rest:
            yield rest

    def shield(self, text: str) -> str:
        """`text` with markers, so that no control token is found in it nor across its ends."""
        if self._occurrence is None:
            return text
        shielded = self._occurrence.sub(NOT_A_START, text)
        return self._shield_head(self._shield_tail(shielded))

    def _shield_tail(self, text: str) -> str:
        starts = range(max(0, len(text) - self._longest), len(text))
        for start in [start for start in starts if text[start:] in self._prefixes][::-1]:
            text = text[:start] + NOT_A_START + text[start:]
        return text

    def _shield_head(self, text: str) -> str:
        ends = range(1, min(self._longest, len(text)) + 1)
        for end in [end for end in ends if text[:end] in self._suffixes][::-1]:
            text = text[:end] + NOT_AN_END + text[end:]
        return text


def unshield(text: str) -> str:
    """`text` without the markers of `ControlTokens.shield`."""
    return _MARKERS.sub("", text)


def _alternatives(names: frozenset[str]) -> str:
    """A regular expression for the longest name at a position, as a trie: linear in the text for any vocabulary."""
    if not names:
        return ""
    heads: dict[str, set[str]] = {}
    for name in names - {""}:
        heads.setdefault(name[0], set()).add(name[1:])
    branches = [_branch(head, tails) for head, tails in sorted(heads.items())]
    body = branches[0] if len(branches) == 1 else f"(?:{'|'.join(branches)})"
    return f"(?:{body})?" if "" in names else body


def _branch(head: str, tails: set[str]) -> str:
    while len({tail[:1] for tail in tails}) == 1 and "" not in tails:  # one way on: no group needed
        first = next(iter(tails))[0]
        head += first
        tails = {tail[1:] for tail in tails}
    rest = "" if tails == {""} else _alternatives(frozenset(tails))
    return re.escape(head) + rest
