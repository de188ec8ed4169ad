"""The tokenizer of a Hugging Face model directory."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import pre_tokenizers

from vivace.core.errors import ModelFileError
from vivace.engine.tokenizer.byte_bpe import build_byte_bpe
from vivace.engine.tokenizer.control_tokens import ControlToken, ControlTokens
from vivace.engine.tokenizer.pieces import Piece, PieceKind, add_user_defined, build_bpe, build_unigram, check_pieces
from vivace.engine.tokenizer.sentencepiece import BPE, SentencePieceModel, read_sentencepiece
from vivace.engine.tokenizer.settings import TokenizerSettings, read_object, read_text
from vivace.engine.tokenizer.token_bytes import PieceCoding
from vivace.engine.tokenizer.tokenizer import CONTROL_NAMES, Frame, SpecialIds, Tokenizer

# Classes whose directories may hold vocab.json and merges.txt alone, and the words they cut.
_PRE_TOKENIZER_OF_CLASS = {"": "gpt-2", "GPT2Tokenizer": "gpt-2", "Qwen2Tokenizer": "qwen2"}


def load_tokenizer(directory: str | Path) -> Tokenizer:
    """Reads tokenizer.json, else tokenizer.model (SentencePiece), else vocab.json and merges.txt.

    Raises `ModelFileError` where none is there or one is broken.
    """
    directory = Path(directory)
    settings = TokenizerSettings(directory)
    if (directory / "tokenizer.json").is_file():
        return _from_tokenizer_json(directory / "tokenizer.json", settings)
    if (directory / "tokenizer.model").is_file():
        return _from_sentencepiece(directory / "tokenizer.model", settings)
    if (directory / "vocab.json").is_file() and (directory / "merges.txt").is_file():
        return _from_vocabulary_and_merges(directory, settings)
    raise ModelFileError(directory, "no tokenizer.json, no tokenizer.model, no vocab.json with merges.txt")


def _from_tokenizer_json(path: Path, settings: TokenizerSettings) -> Tokenizer:
    backend = _read_backend(path)
    coding, strips_space = _decoding(path, backend)
    special = settings.special_ids(backend.token_to_id, backend.get_vocab_size())
    roles = special.eos_ids | {special.bos_id}
    added = backend.get_added_tokens_decoder()
    control = {
        token_id: token
        for token_id, token in added.items()
        if token.special or token_id in roles or token.content in CONTROL_NAMES
    }
    backend.add_special_tokens([control[token_id] for token_id in sorted(control)])  # known ones only change class
    backend.encode_special_tokens = True
    return Tokenizer(
        backend,
        special=special,
        frame=settings.frame(special, _frame(backend)),
        control=ControlTokens(
            [ControlToken(token_id, token.content, token.lstrip, token.rstrip) for token_id, token in control.items()]
        ),
        coding=coding,
        strips_space=strips_space,
        chat_template=settings.chat_template(),
        continuation=None if _first_metaspace(backend) is None else lambda: _continuation(path),
    )


def _read_backend(path: Path) -> tokenizers.Tokenizer:
    text = read_text(path)
    try:
        backend = tokenizers.Tokenizer.from_str(text)
    except Exception as error:  # the library raises Exception itself
        raise ModelFileError(path, f"not a tokenizer: {error}") from error
    backend.no_truncation()
    backend.no_padding()
    return backend


def _frame(backend: tokenizers.Tokenizer) -> Frame:
    """What the post-processor puts around a text."""
    plain = backend.encode("a", add_special_tokens=False).ids
    framed = backend.encode("a").ids
    starts = range(len(framed) - len(plain) + 1)
    start = next((start for start in starts if framed[start : start + len(plain)] == plain), 0)
    return Frame(tuple(framed[:start]), tuple(framed[start + len(plain) :]))


def _state(component: Any) -> dict[str, Any]:
    state: dict[str, Any] = {} if component is None else json.loads(component.__getstate__())
    return state


def _parts(state: dict[str, Any]) -> list[dict[str, Any]]:
    """The state itself, or the parts of a sequence."""
    parts: list[dict[str, Any]] = state.get("decoders") or state.get("pretokenizers") or [state]
    return parts


def _decoding(path: Path, backend: tokenizers.Tokenizer) -> tuple[PieceCoding, bool]:
    """How pieces spell bytes, and whether a leading space belongs to the vocabulary and not to the text."""
    parts = _parts(_state(backend.decoder))
    kinds = {part.get("type") for part in parts}
    if "ByteLevel" in kinds:
        return PieceCoding.BYTE_LEVEL, False
    if (
        kinds & {"Metaspace", "ByteFallback"}
        or {"type": "Replace", "pattern": {"String": "▁"}, "content": " "} in parts
    ):
        strips = any(
            (part.get("type") == "Metaspace" and part.get("prepend_scheme") != "never")
            or (part.get("type") == "Strip" and part.get("content") == " " and part.get("start", 0) > 0)
            for part in parts
        )
        return PieceCoding.SPACE_MARKER, strips
    names = ", ".join(sorted(map(str, kinds)))
    raise ModelFileError(path, f"decoder {names} is not supported; known: ByteLevel, Metaspace, ByteFallback")


def _first_metaspace(backend: tokenizers.Tokenizer) -> pre_tokenizers.Metaspace | None:
    """The step which puts a space before the first piece of a text only."""
    steps = backend.pre_tokenizer
    num_steps = len(_parts(_state(steps)))
    for step in (
        [steps[index] for index in range(num_steps)] if isinstance(steps, pre_tokenizers.Sequence) else [steps]
    ):
        if isinstance(step, pre_tokenizers.Metaspace) and step.prepend_scheme == "first":
            return step
    return None


def _continuation(path: Path) -> tokenizers.Tokenizer:
    backend = _read_backend(path)
    step = _first_metaspace(backend)
    if step is not None:
        step.prepend_scheme = "never"
    backend.encode_special_tokens = True
    return backend


def _from_sentencepiece(path: Path, settings: TokenizerSettings) -> Tokenizer:
    model = read_sentencepiece(path)
    pieces, added = _with_added(path, model.pieces, settings)
    ids = {piece.text: token_id for token_id, piece in enumerate(pieces)}
    special = settings.special_ids(ids.get, len(pieces), _model_roles(model))
    pieces = _promoted(pieces, special)
    build = build_bpe if model.model_type == BPE else build_unigram
    frame = Frame((special.bos_id,)) if special.bos_id is not None else Frame()
    return Tokenizer(
        build(pieces, model.normalization),
        special=special,
        frame=settings.frame(special, frame),
        control=_control_tokens(pieces, added),
        coding=PieceCoding.SPACE_MARKER,
        strips_space=model.normalization.adds_space_prefix,
        chat_template=settings.chat_template(),
    )


def _model_roles(model: SentencePieceModel) -> SpecialIds:
    unknown = (token_id for token_id, piece in enumerate(model.pieces) if piece.kind is PieceKind.UNKNOWN)
    ends = frozenset() if model.eos_id is None else frozenset({model.eos_id})
    return SpecialIds(model.bos_id, model.eos_id, ends, model.pad_id, next(unknown, None))


def _from_vocabulary_and_merges(directory: Path, settings: TokenizerSettings) -> Tokenizer:
    path = directory / "vocab.json"
    if settings.tokenizer_class not in _PRE_TOKENIZER_OF_CLASS:
        known = ", ".join(filter(None, _PRE_TOKENIZER_OF_CLASS))
        raise settings.error(
            "tokenizer_class",
            f"{settings.tokenizer_class!r} without a tokenizer.json is not supported; known: {known}",
        )
    pieces, added = _with_added(path, _vocabulary_pieces(path), settings)
    ids = {piece.text: token_id for token_id, piece in enumerate(pieces)}
    special = settings.special_ids(ids.get, len(pieces))
    pieces = _promoted(pieces, special)
    merges = _read_merges(directory / "merges.txt")
    backend = build_byte_bpe(path, pieces, merges, _PRE_TOKENIZER_OF_CLASS[settings.tokenizer_class])
    add_user_defined(backend, pieces)
    return Tokenizer(
        backend,
        special=special,
        frame=settings.frame(special, Frame()),
        control=_control_tokens(pieces, added),
        coding=PieceCoding.BYTE_LEVEL,
        strips_space=False,
        chat_template=settings.chat_template(),
    )


def _vocabulary_pieces(path: Path) -> list[Piece]:
    vocabulary = read_object(path)
    by_id: dict[int, str] = {}
    for name, token_id in vocabulary.items():
        if isinstance(token_id, bool) or not isinstance(token_id, int) or not 0 <= token_id < len(vocabulary):
            raise ModelFileError(
                path, f"token {name!r} has the id {token_id!r}; ids go from 0 to {len(vocabulary) - 1}"
            )
        other = by_id.setdefault(token_id, name)
        if other != name:
            raise ModelFileError(path, f"tokens {other!r} and {name!r} share the id {token_id}")
    return [Piece(by_id[token_id], 0.0, PieceKind.NORMAL) for token_id in range(len(by_id))]


def _read_merges(path: Path) -> list[tuple[str, str]]:
    merges = []
    for number, line in enumerate(read_text(path).split("\n"), 1):
        if not line or (number == 1 and line.startswith("#version")):
            continue
        left, cut, right = line.removesuffix("\r").partition(" ")
        if not cut or not left or not right or " " in right:
            raise ModelFileError(path, f"line {number} does not name two pieces")
        merges.append((left, right))
    return merges


def _with_added(
    path: Path, pieces: list[Piece], settings: TokenizerSettings
) -> tuple[list[Piece], dict[int, ControlToken]]:
    """`pieces` with the added tokens at their ids, and the added control tokens."""
    pieces = list(pieces)
    added = settings.added_tokens()
    if added and max(added) >= len(pieces) + len(added):
        raise settings.error(
            "added_tokens_decoder", f"token id {max(added)} leaves a hole after {len(pieces)} pieces"
        )
    for token_id in sorted(added):
        token, is_control = added[token_id]
        pieces += [Piece(f"[UNUSED_{len(pieces)}]", 0.0, PieceKind.UNUSED)] * (token_id > len(pieces))
        kind = PieceKind.CONTROL if is_control else PieceKind.USER_DEFINED
        if token_id >= len(pieces):
            pieces.append(Piece(token.name, 0.0, kind))
        elif pieces[token_id].text != token.name:
            raise settings.error("added_tokens_decoder", f"{token.name!r} has the id of {pieces[token_id].text!r}")
        elif pieces[token_id].kind is not PieceKind.UNKNOWN:
            pieces[token_id] = replace(pieces[token_id], kind=kind)
    check_pieces(path, "vocabulary", pieces)
    return pieces, {token_id: token for token_id, (token, _) in added.items()}


def _promoted(pieces: list[Piece], special: SpecialIds) -> list[Piece]:
    """Tokens with a role are control tokens, whatever kind the files give them."""
    roles = special.eos_ids | {special.bos_id}
    return [
        replace(piece, kind=PieceKind.CONTROL) if token_id in roles and not piece.is_control else piece
        for token_id, piece in enumerate(pieces)
    ]


def _control_tokens(pieces: list[Piece], added: dict[int, ControlToken]) -> ControlTokens:
    return ControlTokens(
        [
            added.get(token_id, ControlToken(token_id, piece.text))
            for token_id, piece in enumerate(pieces)
            if piece.is_control
        ]
    )
