"""Byte-level BPE (GPT-2, Llama 3, Qwen) from a vocabulary and its merges."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import tokenizers
from tokenizers import decoders, models

from vivace.core.errors import ModelFileError
from vivace.engine.tokenizer.pieces import Piece
from vivace.engine.tokenizer.pre_tokenizers import PATTERNS, WHOLE_WORDS_FIRST, pre_tokenizer


def build_byte_bpe(
    path: str | Path, pieces: Sequence[Piece], merges: list[tuple[str, str]], pre_name: str
) -> tokenizers.Tokenizer:
    """A backend without added tokens. `pieces` are in id order, `merges` in order of rank.

    Raises `ModelFileError` (naming `path`) for an unknown pre-tokenizer or a merge of pieces that do not exist.
    """
    if pre_name not in PATTERNS:
        known = ", ".join(sorted(PATTERNS))
        raise ModelFileError(path, f"pre-tokenizer {pre_name!r} is not supported; known: {known}", field="pre")
    names = {piece.text for piece in pieces}
    for rank, (left, right) in enumerate(merges):
        if left not in names or right not in names or left + right not in names:
            raise ModelFileError(path, f"merge {rank} joins {left!r} and {right!r}, not all in the vocabulary")
    vocabulary = {piece.key: token_id for token_id, piece in enumerate(pieces)}
    reachable = [
        (left, right)
        for left, right in merges
        if left in vocabulary and right in vocabulary and left + right in vocabulary
    ]
    model = models.BPE(vocab=vocabulary, merges=reachable, ignore_merges=pre_name in WHOLE_WORDS_FIRST)
    backend = tokenizers.Tokenizer(model)
    backend.pre_tokenizer = pre_tokenizer(pre_name)
    backend.decoder = decoders.ByteLevel()
    return backend
