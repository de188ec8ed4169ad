"""What each token id stands for, as bytes.

Text is decoded from the joined bytes of all tokens, never token by token: a UTF-8 character may be spread over
several tokens, and an incremental decoder over bytes gives the same text however the ids are cut into chunks.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from enum import Enum

BYTE_PIECE = re.compile(r"<0x([0-9A-Fa-f]{2})>")


class PieceCoding(Enum):
    """How a vocabulary writes bytes as text."""

    BYTE_LEVEL = "byte level"  # GPT-2: each byte is one printable character
    SPACE_MARKER = "space marker"  # SentencePiece: U+2581 is a space, <0x0A> a byte
    PLAIN = "plain"  # pieces are the text itself


def byte_alphabet() -> dict[str, int]:
    """GPT-2's map from printable character to byte: printable Latin-1 is itself, the others follow from U+0100."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in set(printable)]
    alphabet = {chr(byte): byte for byte in printable}
    alphabet.update({chr(0x100 + index): byte for index, byte in enumerate(others)})
    return alphabet


_BYTE_OF = byte_alphabet()


class TokenBytes(dict[int, bytes]):
    """Token id -> bytes, filled on first use. Unknown ids (padded vocabularies) and `skipped` ids are empty."""

    def __init__(
        self,
        coding: PieceCoding,
        piece_of: Callable[[int], str | None],
        added: Mapping[int, str],
        skipped: frozenset[int] = frozenset(),
    ) -> None:
        super().__init__()
        self._coding = coding
        self._piece_of = piece_of
        self._added = added
        self._skipped = skipped

    def __missing__(self, token_id: int) -> bytes:
        value = self._compute(token_id)
        self[token_id] = value
        return value

    def _compute(self, token_id: int) -> bytes:
        if token_id in self._skipped:
            return b""
        added = self._added.get(token_id)
        if added is not None:
            return added.encode()
        piece = self._piece_of(token_id)
        if piece is None:
            return b""
        if self._coding is PieceCoding.BYTE_LEVEL:
            return _byte_level_bytes(piece)
        if self._coding is PieceCoding.SPACE_MARKER:
            byte = BYTE_PIECE.fullmatch(piece)
            return bytes([int(byte[1], 16)]) if byte else piece.replace("\u2581", " ").encode()
        return piece.encode()


def _byte_level_bytes(piece: str) -> bytes:
    try:
        return bytes([_BYTE_OF[character] for character in piece])
    except KeyError:  # not written in the alphabet: an entry that was added as text
        return piece.encode()
