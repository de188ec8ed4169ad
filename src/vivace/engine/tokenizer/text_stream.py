"""Token ids in, text out, a chunk at a time."""

from __future__ import annotations

import codecs
from collections.abc import Iterable

from vivace.engine.tokenizer.token_bytes import TokenBytes

_Utf8Decoder = codecs.getincrementaldecoder("utf-8")


class TextStream:
    """Incremental decoder: the texts of all `push` calls and of `finish` join to the text of all ids at once.

    A character whose bytes are not complete yet is held back. Bytes that are no UTF-8 become U+FFFD, one for each
    maximal part of a character (Unicode 15, section 3.9, as Python and Rust do).
    `strips_space` drops one leading space: the one that a SentencePiece vocabulary put before the first word.
    """

    __slots__ = ("_bytes_of", "_decoder", "_strips_space")

    def __init__(self, bytes_of: TokenBytes, *, strips_space: bool = False) -> None:
        self._bytes_of = bytes_of.__getitem__
        self._decoder = _Utf8Decoder("replace")
        self._strips_space = strips_space

    def push(self, token_ids: Iterable[int]) -> str:
        text = self._decoder.decode(b"".join(map(self._bytes_of, token_ids)))
        if self._strips_space and text:
            self._strips_space = False
            return text.removeprefix(" ")
        return text

    def finish(self) -> str:
        """Flush: an unfinished character becomes U+FFFD."""
        text = self._decoder.decode(b"", final=True)
        self._decoder.reset()
        return text
