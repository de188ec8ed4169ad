"""How many of a continuation's tokens are reasoning, for `usage`."""

from __future__ import annotations

from vivace.serve.reasoning import THINK_END, THINK_START
from vivace.serve.tools.markers import num_undecided


class ReasoningCount:
    """Told token by token. A token counts when any of its text stands between the tags, or when it has none there.

    `opened`: the prompt has opened the tags. Tokens of a tag alone count for neither side, except those of a second
    opening tag behind the prompt's. Reasoning that is never closed counts to its end.
    """

    __slots__ = ("_is_inside", "_is_over", "_num_pending", "_text", "num_tokens")

    def __init__(self, *, opened: bool) -> None:
        self.num_tokens = 0
        self._is_inside = opened
        self._is_over = False
        self._text = ""  # that may still become a tag
        self._num_pending = 0  # tokens that lie in it whole

    def push(self, text: str) -> None:
        """The next token brought `text`."""
        if self._is_inside:
            self._read_inside(text)
        elif not self._is_over:
            self._read_before(text)

    def finish(self) -> None:
        """No token follows. Harmless when repeated."""
        if self._is_inside:
            self.num_tokens += self._num_pending
        self._is_inside, self._is_over, self._num_pending = False, True, 0

    def _read_before(self, text: str) -> None:
        self._text = (self._text + text).lstrip()
        if self._text.startswith(THINK_START):
            inside, self._text = self._text[len(THINK_START) :], ""
            self._is_inside = True
            if inside:
                self._read_inside(inside)
        elif not THINK_START.startswith(self._text):
            self._is_over = True

    def _read_inside(self, text: str) -> None:
        num_held = len(self._text)
        joined = self._text + text
        end = joined.find(THINK_END)
        if end >= 0:  # what was held is part of the tag, or was none
            self.num_tokens += (self._num_pending if end > 0 else 0) + (1 if end > num_held else 0)
            self._is_inside, self._is_over = False, True
            return
        size = num_undecided(joined, THINK_END)
        if size == len(joined) and joined:
            self._num_pending += 1
        elif size and size == len(text):  # a tag may begin with this very token
            self.num_tokens += self._num_pending
            self._num_pending = 1
        else:
            self.num_tokens += self._num_pending + 1
            self._num_pending = 0
        self._text = joined[len(joined) - size :]
