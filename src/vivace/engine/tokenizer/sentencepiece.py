"""Reads a SentencePiece model: the few fields of its protocol buffer that tokenising needs.

The wire format: a record is a sequence of (field number << 3 | wire type) keys and values; wire type 0 is a varint,
1 eight bytes, 2 length and bytes, 5 four bytes.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from vivace.core.errors import ModelFileError
from vivace.engine.tokenizer.pieces import Normalization, Piece, PieceKind, check_pieces

UNIGRAM, BPE = 1, 2
MAX_PIECES = 4_000_000
_MODEL_PIECES, _MODEL_TRAINER, _MODEL_NORMALIZER = 1, 2, 3
_PIECE_TEXT, _PIECE_SCORE, _PIECE_KIND = 1, 2, 3
_TRAINER_TYPE, _TRAINER_UNK, _TRAINER_BOS, _TRAINER_EOS, _TRAINER_PAD = 3, 40, 41, 42, 43
_NORMALIZER_MAP, _NORMALIZER_PREFIX, _NORMALIZER_EXTRA_SPACES = 2, 3, 4

Value = int | bytes


@dataclass(frozen=True, slots=True)
class SentencePieceModel:
    """Pieces in id order; ids of roles are None where the model has none."""

    model_type: int
    pieces: list[Piece]
    normalization: Normalization
    bos_id: int | None
    eos_id: int | None
    pad_id: int | None


def read_sentencepiece(path: str | Path) -> SentencePieceModel:
    """Reads a `.model` file. Raises `ModelFileError` for broken files and for word and character models."""
    reader = _Reader(path, Path(path).read_bytes())
    pieces: list[Piece] = []
    trainer: dict[int, Value] = {}
    normalizer: dict[int, Value] = {}
    for number, value, offset in reader.fields(0, len(reader.data)):
        if number == _MODEL_PIECES:
            pieces.append(_piece(reader, reader.record(value, offset), offset))
            if len(pieces) > MAX_PIECES:
                raise ModelFileError(path, f"more than {MAX_PIECES} pieces", offset=offset)
        elif number == _MODEL_TRAINER:
            trainer |= reader.record(value, offset)
        elif number == _MODEL_NORMALIZER:
            normalizer |= reader.record(value, offset)
    if not pieces:
        raise ModelFileError(path, "no pieces: this is no SentencePiece model", field="pieces")
    check_pieces(path, "pieces", pieces)
    model_type = trainer.get(_TRAINER_TYPE, UNIGRAM)
    if not isinstance(model_type, int) or model_type not in (UNIGRAM, BPE):
        raise ModelFileError(path, f"model type {model_type!r} is neither Unigram nor BPE", field="model_type")
    roles = [_role(trainer, number, default, pieces) for number, default in _ROLES]
    return SentencePieceModel(model_type, pieces, _normalization(normalizer), *roles)


_ROLES = ((_TRAINER_BOS, 1), (_TRAINER_EOS, 2), (_TRAINER_PAD, -1))  # the format's defaults


def _role(trainer: dict[int, Value], number: int, default: int, pieces: list[Piece]) -> int | None:
    value = trainer.get(number, default)
    if not isinstance(value, int):
        return None
    token_id = value - 2**64 if value >= 2**63 else value
    return token_id if 0 <= token_id < len(pieces) and pieces[token_id].is_control else None


def _normalization(fields: dict[int, Value]) -> Normalization:
    character_map = fields.get(_NORMALIZER_MAP, b"")
    return Normalization(
        adds_space_prefix=bool(fields.get(_NORMALIZER_PREFIX, 1)),
        removes_extra_spaces=bool(fields.get(_NORMALIZER_EXTRA_SPACES, 1)),
        character_map=character_map if isinstance(character_map, bytes) else b"",
    )


def _piece(reader: _Reader, fields: dict[int, Value], offset: int) -> Piece:
    text, score, kind = fields.get(_PIECE_TEXT), fields.get(_PIECE_SCORE, b"\0\0\0\0"), fields.get(_PIECE_KIND, 1)
    if not isinstance(text, bytes) or not isinstance(score, bytes) or len(score) != 4 or not isinstance(kind, int):
        raise reader.error("a piece without text, or with fields of the wrong type", offset)
    try:
        return Piece(text.decode(), struct.unpack("<f", score)[0], PieceKind(kind))
    except ValueError as error:
        raise reader.error(f"a piece cannot be read: {error}", offset) from error


class _Reader:
    """Bounds-checked access to a protocol buffer."""

    def __init__(self, path: str | Path, data: bytes) -> None:
        self.path = path
        self.data = data

    def error(self, reason: str, offset: int) -> ModelFileError:
        return ModelFileError(self.path, reason, offset=offset)

    def record(self, value: Value, offset: int) -> dict[int, Value]:
        """Fields of the record that ends at `offset`; of repeated ones the last counts, as the format says."""
        if not isinstance(value, bytes):
            raise self.error("a number where a record should be", offset)
        inner = _Reader(self.path, value)
        try:
            return {number: field for number, field, _ in inner.fields(0, len(value))}
        except ModelFileError as error:
            raise self.error(f"inside a record: {error.reason}", offset) from error

    def fields(self, position: int, end: int) -> Iterator[tuple[int, Value, int]]:
        """(field number, value, offset after it) until `end`."""
        while position < end:
            key, position = self._varint(position)
            value: Value
            match key & 7:
                case 0:
                    value, position = self._varint(position)
                case 1:
                    value, position = self._take(position, 8)
                case 2:
                    length, position = self._varint(position)
                    value, position = self._take(position, length)
                case 5:
                    value, position = self._take(position, 4)
                case wire_type:
                    raise self.error(f"wire type {wire_type} is unknown", position)
            yield key >> 3, value, position

    def _take(self, position: int, length: int) -> tuple[bytes, int]:
        if length > len(self.data) - position:
            raise self.error(f"a value of {length} bytes reaches past the end", position)
        return self.data[position : position + length], position + length

    def _varint(self, position: int) -> tuple[int, int]:
        value = 0
        for shift in range(0, 70, 7):
            if position >= len(self.data):
                raise self.error("the file ends inside a number", position)
            byte = self.data[position]
            position += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value, position
        raise self.error("a number of more than ten bytes", position)
