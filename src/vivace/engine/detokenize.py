"""Incremental text of one sequence, cut exactly at the first stop string."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from vivace.engine.tokenizer import Tokenizer


class StopMatcher:
    """Finds stop strings in text that arrives in chunks: Aho and Corasick (1975), one step a character.

    Its state's depth is the length of the longest tail of the text that may still grow into a stop string.
    """

    __slots__ = ("_depth", "_fail", "_next", "_starts", "_stop_of")

    def __init__(self, stops: Sequence[str]) -> None:
        self._next: list[dict[str, int]] = [{}]
        self._depth = [0]
        self._stop_of: list[str | None] = [None]  # the longest stop string that ends in a state
        for stop in stops:
            self._insert(stop)
        self._fail = [0] * len(self._next)
        self._link()
        self._starts = frozenset(self._next[0])

    def _insert(self, stop: str) -> None:
        state = 0
        for character in stop:
            following = self._next[state].get(character)
            if following is None:
                following = len(self._next)
                self._next[state][character] = following
                self._next.append({})
                self._depth.append(self._depth[state] + 1)
                self._stop_of.append(None)
            state = following
        self._stop_of[state] = stop

    def _link(self) -> None:
        queue = deque(self._next[0].values())
        while queue:
            state = queue.popleft()
            for character, following in self._next[state].items():
                self._fail[following] = self.step(self._fail[state], character)
                queue.append(following)
            if self._stop_of[state] is None:
                self._stop_of[state] = self._stop_of[self._fail[state]]

    def step(self, state: int, character: str) -> int:
        """The state after one more character."""
        while (following := self._next[state].get(character)) is None:
            if state == 0:
                return 0
            state = self._fail[state]
        return following

    def scan(self, state: int, text: str) -> tuple[int, int, str | None]:
        """Reads `text` from `state`: (state, characters read, stop string that ends there or None)."""
        if state == 0 and self._starts.isdisjoint(text):
            return 0, len(text), None
        for position, character in enumerate(text):
            state = self.step(state, character)
            if self._stop_of[state] is not None:
                return state, position + 1, self._stop_of[state]
        return state, len(text), None

    def depth(self, state: int) -> int:
        return self._depth[state]


class Detokenizer:
    """Text of one sequence as its tokens arrive.

    `push` returns text that is final: it holds back unfinished characters and any tail that may become a stop
    string. The stop string that is complete first wins (the longest of those that end at the same character), so
    the text does not depend on how many tokens a push brings. Stop strings are looked for in the text of tokens
    after the first `min_tokens`. `continuation`: the text follows a prompt, so a leading space is kept.
    """

    __slots__ = (
        "_held",
        "_include_stop",
        "_matcher",
        "_min_tokens",
        "_state",
        "_stream",
        "num_tokens",
        "stop_string",
    )

    def __init__(
        self,
        tokenizer: Tokenizer,
        stop: tuple[str, ...] = (),
        include_stop: bool = False,
        skip_special: bool = True,
        *,
        min_tokens: int = 0,
        continuation: bool = True,
    ) -> None:
        self._stream = tokenizer.stream(skip_special=skip_special, continuation=continuation)
        self._matcher = StopMatcher(stop) if stop else None
        self._include_stop = include_stop
        self._min_tokens = min_tokens
        self._state = 0
        self._held = ""
        self.stop_string: str | None = None
        self.num_tokens = 0  # tokens read, with the one that completed the stop string; later ones are ignored

    @property
    def stopped(self) -> bool:
        """Whether a stop string was found; the text ends there."""
        return self.stop_string is not None

    def push(self, token_ids: Sequence[int]) -> str:
        """New text after `token_ids`."""
        if self._matcher is None:
            self.num_tokens += len(token_ids)
            return self._stream.push(token_ids)
        parts = []
        for token_id in token_ids:
            if self.stop_string is not None:
                break
            self.num_tokens += 1
            text = self._stream.push((token_id,))
            if text:
                parts.append(self._release(text))
        return "".join(parts)

    def finish(self) -> str:
        """What was held back, once no token follows."""
        if self.stop_string is not None:
            return ""
        tail = self._stream.finish()
        if self._matcher is not None:
            tail = self._release(tail)
        tail, self._held = tail + self._held, ""
        return tail

    def _release(self, text: str) -> str:
        """The part of held and new text that no stop string can reach any more."""
        if self.num_tokens <= self._min_tokens or self._matcher is None:
            return text
        self._state, num_read, stop = self._matcher.scan(self._state, text)
        text = self._held + text[:num_read]
        self._held = ""
        if stop is not None:
            self.stop_string = stop
            return text if self._include_stop else text[: len(text) - len(stop)]
        num_final = len(text) - self._matcher.depth(self._state)
        self._held = text[num_final:]
        return text[:num_final]
