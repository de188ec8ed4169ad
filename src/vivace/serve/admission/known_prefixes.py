"""Beginnings that prompts have in common: they are computed once, and must not count every time."""

from __future__ import annotations

from array import array
from collections import OrderedDict
from collections.abc import Sequence

MIN_LEN = 32
MAX_ENTRIES = 16_384  # 2 MB; the prompts of the last thousand requests or more


class KnownPrefixes:
    """Remembers hashes of the first 32, 64, 128, ... tokens of each prompt, the latest ones.

    An estimate for the queue only: the engine compares tokens, and may have dropped what is known here.
    """

    def __init__(self) -> None:
        self._seen: OrderedDict[int, None] = OrderedDict()

    def note(self, key: str, prompt: Sequence[int]) -> int:
        """Remember this prompt of a key. Returns how many of its first tokens another one began with."""
        tokens = array("i", prompt).tobytes()
        num_known, length = 0, MIN_LEN
        while length < len(prompt):
            prefix = hash((key, tokens[: 4 * length]))
            if prefix in self._seen:
                num_known = length
                self._seen.move_to_end(prefix)
            else:
                self._seen[prefix] = None
            length *= 2
        while len(self._seen) > MAX_ENTRIES:
            self._seen.popitem(last=False)
        return num_known
