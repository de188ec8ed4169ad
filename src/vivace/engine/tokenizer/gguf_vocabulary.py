"""The tokenizer that a GGUF file describes in its metadata (`tokenizer.ggml.*`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import tokenizers

from vivace.core.errors import ModelFileError
from vivace.engine.tokenizer.byte_bpe import build_byte_bpe
from vivace.engine.tokenizer.control_tokens import ControlToken, ControlTokens
from vivace.engine.tokenizer.pieces import Normalization, Piece, PieceKind, add_user_defined, build_bpe, check_pieces
from vivace.engine.tokenizer.token_bytes import PieceCoding
from vivace.engine.tokenizer.tokenizer import CONTROL_NAMES, END_OF_TURN_NAMES, Frame, SpecialIds, Tokenizer

_PREFIX = "tokenizer.ggml."
_END_KEYS = ("eos_token_id", "eot_token_id", "eom_token_id")
_STRIPS_NOTHING = frozenset({"<unk>", "<s>", "<|endoftext|>"})  # of Phi-3's control tokens


def tokenizer_from_gguf(metadata: Mapping[str, Any], *, path: str = "GGUF metadata") -> Tokenizer:
    """Builds the tokenizer of a GGUF file from its metadata (key -> Python value; arrays as lists or NumPy arrays).

    `path` names the file in errors. Raises `ModelFileError` for missing, contradictory or unsupported entries.
    """
    entries = _Entries(metadata, path)
    pieces = _read_pieces(entries)
    special = _special_ids(entries, pieces)
    pieces = _promote(pieces, special)
    model = entries.text("model")
    if model == "llama":
        adds_prefix = entries.flag("add_space_prefix", True)
        backend = build_bpe(pieces, Normalization(adds_prefix, entries.flag("remove_extra_whitespaces", False)))
        coding, strips_space, adds_bos = PieceCoding.SPACE_MARKER, adds_prefix, True
    elif model == "gpt2":
        pre_name = entries.text("pre", "default")
        backend = _build_byte_level(entries, pieces, pre_name)
        coding, strips_space, adds_bos = PieceCoding.BYTE_LEVEL, False, pre_name.startswith("llama")
    else:
        raise entries.error("model", f"tokenizer model {model!r} is not supported; known: gpt2, llama")
    chat_template = metadata.get("tokenizer.chat_template")
    return Tokenizer(
        backend,
        special=special,
        frame=_frame(entries, special, adds_bos),
        control=_control_tokens(pieces, strips_right=_is_phi3(metadata)),
        coding=coding,
        strips_space=strips_space,
        chat_template=chat_template if isinstance(chat_template, str) else None,
    )


class _Entries:
    """Typed access to `tokenizer.ggml.*`; every complaint names file and field."""

    def __init__(self, metadata: Mapping[str, Any], path: str) -> None:
        self._metadata = metadata
        self._path = path

    def error(self, key: str, reason: str) -> ModelFileError:
        return ModelFileError(self._path, reason, field=_PREFIX + key)

    def text(self, key: str, default: str | None = None) -> str:
        value = self._metadata.get(_PREFIX + key, default)
        if not isinstance(value, str):
            raise self.error(key, "missing" if value is None else f"should be a string, not {type(value).__name__}")
        return value

    def flag(self, key: str, default: bool) -> bool:
        return bool(self._metadata.get(_PREFIX + key, default))

    def array(self, key: str) -> list[Any] | None:
        value = self._metadata.get(_PREFIX + key)
        if value is None:
            return None
        if hasattr(value, "tolist"):
            value = value.tolist()
        if not isinstance(value, list | tuple):
            raise self.error(key, f"should be an array, not {type(value).__name__}")
        return list(value)

    def strings(self, key: str) -> list[str]:
        values = self.array(key)
        if values is None:
            raise self.error(key, "missing")
        for index, value in enumerate(values):
            if not isinstance(value, str):
                raise self.error(key, f"entry {index} should be a string, not {type(value).__name__}")
        return values

    def numbers(self, key: str, count: int) -> list[float] | None:
        values = self.array(key)
        if values is None:
            return None
        if len(values) != count:
            raise self.error(key, f"has {len(values)} entries for {count} tokens")
        if not all(isinstance(value, int | float) for value in values):
            raise self.error(key, "should hold numbers")
        return values

    def token_id(self, key: str, count: int) -> int | None:
        value = self._metadata.get(_PREFIX + key)
        if value is None or value in (-1, 2**32 - 1):  # both are written for "none"
            return None
        if isinstance(value, bool) or not hasattr(value, "__index__") or not 0 <= value < count:
            raise self.error(key, f"token id {value!r} is outside the vocabulary of {count}")
        return int(value)


def _read_pieces(entries: _Entries) -> list[Piece]:
    texts = entries.strings("tokens")
    if not texts:
        raise entries.error("tokens", "the vocabulary is empty")
    scores = entries.numbers("scores", len(texts))
    kinds = entries.numbers("token_type", len(texts))
    if scores is None and entries.text("model") == "llama":
        raise entries.error("scores", "missing: a llama vocabulary merges by score")
    pieces = []
    for token_id, text in enumerate(texts):
        try:
            kind = PieceKind(int(kinds[token_id])) if kinds else PieceKind.NORMAL
        except (ValueError, OverflowError) as error:
            raise entries.error("token_type", f"token {token_id}: {error}") from error
        name = text or f"[EMPTY_{token_id}]"  # some converters leave holes
        pieces.append(Piece(name, float(scores[token_id]) if scores else 0.0, kind))
    check_pieces(entries._path, _PREFIX + "tokens", pieces)
    return pieces


def _special_ids(entries: _Entries, pieces: list[Piece]) -> SpecialIds:
    count = len(pieces)
    declared = (entries.token_id(key, count) for key in _END_KEYS)
    ends = {token_id for token_id in declared if token_id is not None}
    ends |= {
        token_id
        for token_id, piece in enumerate(pieces)
        if piece.kind in (PieceKind.CONTROL, PieceKind.USER_DEFINED) and piece.text in END_OF_TURN_NAMES
    }
    return SpecialIds(
        bos_id=entries.token_id("bos_token_id", count),
        eos_id=entries.token_id("eos_token_id", count),
        eos_ids=frozenset(ends),
        pad_id=entries.token_id("padding_token_id", count),
        unk_id=entries.token_id("unknown_token_id", count),
    )


def _promote(pieces: list[Piece], special: SpecialIds) -> list[Piece]:
    """Tokens with a role become control tokens, whatever kind the converter gave them."""
    roles = special.eos_ids | {special.bos_id}
    return [
        replace(piece, kind=PieceKind.CONTROL)
        if token_id in roles or (piece.kind is PieceKind.USER_DEFINED and piece.text in CONTROL_NAMES)
        else piece
        for token_id, piece in enumerate(pieces)
    ]


def _build_byte_level(entries: _Entries, pieces: list[Piece], pre_name: str) -> tokenizers.Tokenizer:
    merges = []
    for rank, line in enumerate(entries.strings("merges")):
        cut = line.find(" ", 1)
        if cut < 0:
            raise entries.error("merges", f"merge {rank} ({line!r}) does not name two pieces")
        merges.append((line[:cut], line[cut + 1 :]))
    backend = build_byte_bpe(entries._path, pieces, merges, pre_name)
    add_user_defined(backend, pieces)
    return backend


def _frame(entries: _Entries, special: SpecialIds, adds_bos: bool) -> Frame:
    before = entries.flag("add_bos_token", adds_bos and special.bos_id is not None)
    after = entries.flag("add_eos_token", False)
    if before and special.bos_id is None:
        raise entries.error("add_bos_token", "set, but there is no bos_token_id")
    if after and special.eos_id is None:
        raise entries.error("add_eos_token", "set, but there is no eos_token_id")
    return Frame(
        (special.bos_id,) if before and special.bos_id is not None else (),
        (special.eos_id,) if after and special.eos_id is not None else (),
    )


def _is_phi3(metadata: Mapping[str, Any]) -> bool:
    name = str(metadata.get("general.name", "")).lower()
    return "phi-3" in name or "phi3" in name


def _control_tokens(pieces: list[Piece], *, strips_right: bool) -> ControlTokens:
    """`strips_right`: Phi-3's turn tokens swallow the white space after them; GGUF has no field that says so."""
    return ControlTokens(
        [
            ControlToken(token_id, piece.text, strips_right=strips_right and piece.text not in _STRIPS_NOTHING)
            for token_id, piece in enumerate(pieces)
            if piece.is_control
        ]
    )
