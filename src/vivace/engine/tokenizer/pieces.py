"""A vocabulary as files list it: pieces in id order, each with a score and a kind; and SentencePiece's two models.

Control pieces enter the backend under an unmatchable name (a leading space, which normalised text never holds), so
that no text can become one.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers

from vivace.core.errors import ModelFileError
from vivace.engine.tokenizer.token_bytes import BYTE_PIECE

MAX_PIECE_CHARS = 1_024
_SPACE = "\u2581"
_SPACE_INSIDE = re.compile(f"[^{_SPACE}]{_SPACE}")


class PieceKind(IntEnum):
    """Kinds with the numbers that SentencePiece and GGUF share."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


@dataclass(frozen=True, slots=True)
class Piece:
    text: str
    score: float
    kind: PieceKind

    @property
    def is_control(self) -> bool:
        return self.kind in (PieceKind.CONTROL, PieceKind.UNKNOWN)

    @property
    def key(self) -> str:
        """Name in the backend; no text matches that of a control piece."""
        return " " + self.text if self.is_control else self.text


@dataclass(frozen=True, slots=True)
class Normalization:
    """What happens to text before it is cut: SentencePiece's normaliser options."""

    adds_space_prefix: bool = True
    removes_extra_spaces: bool = False
    character_map: bytes = b""


def check_pieces(path: str | Path, field: str, pieces: Sequence[Piece]) -> None:
    """Raises `ModelFileError` for what no vocabulary can mean: doubles, bad byte names, scores of NaN."""
    seen: dict[str, int] = {}
    for token_id, piece in enumerate(pieces):
        where = f"token {token_id}"
        if len(piece.text) > MAX_PIECE_CHARS:
            raise ModelFileError(path, f"{where} has more than {MAX_PIECE_CHARS} characters", field=field)
        if not math.isfinite(piece.score):
            raise ModelFileError(path, f"{where} has the score {piece.score}", field=field)
        if piece.kind is PieceKind.BYTE and not BYTE_PIECE.fullmatch(piece.text):
            raise ModelFileError(path, f"{where} is a byte named {piece.text!r}, not <0x00> to <0xFF>", field=field)
        other = seen.setdefault(piece.text, token_id)
        if other != token_id:
            raise ModelFileError(path, f"tokens {other} and {token_id} are both {piece.text!r}", field=field)


def build_bpe(pieces: Sequence[Piece], normalization: Normalization) -> tokenizers.Tokenizer:
    """SentencePiece BPE: neighbours join while the result is a piece, best score first, leftmost among equals."""
    vocabulary = {piece.key: token_id for token_id, piece in enumerate(pieces)}
    unknown = _unknown_id(pieces)
    model = models.BPE(
        vocab=vocabulary,
        merges=_merges(pieces),
        unk_token=pieces[unknown].key if unknown is not None else None,
        fuse_unk=True,
        byte_fallback=any(piece.kind is PieceKind.BYTE for piece in pieces),
    )
    backend = _backend(model, pieces, normalization)
    if not any(_SPACE_INSIDE.search(piece.text) for piece in pieces if not piece.is_control):
        # No piece spans two words, so words are cut apart: short words merge faster and are cached.
        backend.pre_tokenizer = pre_tokenizers.Split(Regex(f"{_SPACE}+[^{_SPACE}]*|[^{_SPACE}]+"), "isolated")
    return backend


def build_unigram(pieces: Sequence[Piece], normalization: Normalization) -> tokenizers.Tokenizer:
    """SentencePiece Unigram: the segmentation of the highest total score (Kudo, 2018)."""
    model = models.Unigram(
        vocab=[(piece.key, piece.score) for piece in pieces],
        unk_id=_unknown_id(pieces),
        byte_fallback=any(piece.kind is PieceKind.BYTE for piece in pieces),
    )
    return _backend(model, pieces, normalization)


def add_user_defined(backend: tokenizers.Tokenizer, pieces: Sequence[Piece]) -> None:
    """Pieces that are always found in text, before anything else is cut."""
    names = (piece.text for piece in pieces if piece.kind is PieceKind.USER_DEFINED and piece.text)
    backend.add_tokens([AddedToken(name, normalized=False) for name in names])


def _backend(model: models.Model, pieces: Sequence[Piece], normalization: Normalization) -> tokenizers.Tokenizer:
    backend = tokenizers.Tokenizer(model)
    backend.normalizer = _normalizer(normalization)
    backend.decoder = decoders.Sequence(
        [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
        + ([decoders.Strip(" ", 1, 0)] if normalization.adds_space_prefix else [])
    )
    add_user_defined(backend, pieces)
    return backend


def _normalizer(normalization: Normalization) -> normalizers.Normalizer:
    steps: list[normalizers.Normalizer] = []
    if normalization.character_map:
        steps.append(normalizers.Precompiled(normalization.character_map))
    if normalization.removes_extra_spaces:
        # Spaces only: SentencePiece keeps tabs and line ends. Of trailing ones it drops literal markers too.
        steps += [
            normalizers.Replace(Regex(rf"\A +|[ {_SPACE}]+\z"), ""),
            normalizers.Replace(Regex(" {2,}"), " "),
        ]
    if normalization.adds_space_prefix:
        steps.append(normalizers.Prepend(_SPACE))
    steps.append(normalizers.Replace(" ", _SPACE))
    return normalizers.Sequence(steps)


def _unknown_id(pieces: Sequence[Piece]) -> int | None:
    unknown = (token_id for token_id, piece in enumerate(pieces) if piece.kind is PieceKind.UNKNOWN)
    return next(unknown, None)


def _merges(pieces: Sequence[Piece]) -> list[tuple[str, str]]:
    """Every way to cut a piece in two pieces, ranked by the piece's score."""
    joinable = {
        piece.text: token_id
        for token_id, piece in enumerate(pieces)
        if piece.kind in (PieceKind.NORMAL, PieceKind.USER_DEFINED, PieceKind.UNUSED)
    }
    ranked: list[tuple[float, int, int, str, str]] = []
    for text, token_id in joinable.items():
        for cut in range(1, len(text)):
            left, right = text[:cut], text[cut:]
            left_id, right_id = joinable.get(left), joinable.get(right)
            if left_id is not None and right_id is not None:
                ranked.append((-pieces[token_id].score, left_id, right_id, left, right))
    ranked.sort()
    return [(left, right) for _, _, _, left, right in ranked]
