"""A tokenizer as GGUF metadata: the way back from a model directory to what gguf_vocabulary reads.

The description is read back and held against the tokenizer on a text that shows every difference in use, because a
GGUF file names its way of cutting words instead of spelling it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from vivace.core.errors import ModelFileError, UnsupportedError
from vivace.engine.tokenizer.gguf_vocabulary import tokenizer_from_gguf
from vivace.engine.tokenizer.pieces import Piece, PieceKind
from vivace.engine.tokenizer.pre_tokenizers import PATTERNS, WHOLE_WORDS_FIRST
from vivace.engine.tokenizer.sentencepiece import BPE, read_sentencepiece
from vivace.engine.tokenizer.tokenizer import Tokenizer
from vivace.formats.gguf_metadata import MetadataValue

_PREFIX = "tokenizer.ggml."
# Contractions in both cases, numbers of 1 to 5 digits, runs of blanks and line ends, scripts, signs, code.
PROBE = (
    "I'm sure they'll say WE'RE not, it's don'T.  Two  blanks,\ttabs\r\n\r\n\nlines   \n"
    "  7 42 365 2024 12345 3.14 1,000\n"
    "naïve Ünïcødé ὈΔΥΣΣΕΎΣ Война 東京タワー 한국어 हिन्दी 😀👩‍👩‍👧 ½²³ №5 «quoted» “text” — a_b.c(d)[e]={f: 'g'};  "
    "$x+=1<2>=3^4~5|6 `code` //!? ...--- <b>bold</b> #tag @you https://example.org/?q=1&r=%20"
)


def gguf_entries(tokenizer: Tokenizer, directory: Path, vocab_size: int) -> dict[str, MetadataValue]:
    """`tokenizer.*` keys for the tokenizer that `directory` holds, filled up to `vocab_size` tokens.

    Raises UnsupportedError where GGUF cannot describe it so that the same text gives the same ids.
    """
    candidates = _sentencepiece(tokenizer, directory) if _has_sentencepiece(directory) else _byte_level(tokenizer)
    roles = _roles(tokenizer)
    for pieces, entries in candidates:
        metadata = {
            _PREFIX + key: value for key, value in {**entries, **_columns(pieces, vocab_size), **roles}.items()
        }
        if tokenizer.chat_template is not None:
            metadata["tokenizer.chat_template"] = tokenizer.chat_template
        if _is_same(tokenizer, metadata):
            return metadata
    raise UnsupportedError(
        f"{directory}: GGUF has no words for this tokenizer (how it cuts or normalises text, or its end tokens); "
        "write safetensors instead"
    )


Candidates = list[tuple[list[Piece], dict[str, MetadataValue]]]


def _has_sentencepiece(directory: Path) -> bool:
    return (directory / "tokenizer.model").is_file()


def _sentencepiece(tokenizer: Tokenizer, directory: Path) -> Candidates:
    model = read_sentencepiece(directory / "tokenizer.model")
    if model.model_type != BPE:
        return []
    pieces = _with_control(list(model.pieces), tokenizer)
    entries: dict[str, MetadataValue] = {
        "model": "llama",
        "pre": "default",
        "scores": np.array([piece.score for piece in pieces], np.float32),
        "add_space_prefix": model.normalization.adds_space_prefix,
        "remove_extra_whitespaces": model.normalization.removes_extra_spaces,
    }
    return [(pieces, entries)]


def _byte_level(tokenizer: Tokenizer) -> Candidates:
    """One candidate for each way of cutting words that has a name."""
    model: dict[str, Any] = json.loads(tokenizer.backend.to_str())["model"]
    if model.get("type") != "BPE":
        return []
    pieces = _with_control(_vocabulary(tokenizer), tokenizer)
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
    names = _names_of_cuts(whole_words_first=bool(model.get("ignore_merges")))
    return [(pieces, {"model": "gpt2", "pre": name, "merges": merges}) for name in names]


def _names_of_cuts(*, whole_words_first: bool) -> list[str]:
    """One name for each way of cutting words, of those that share it the first."""
    first: dict[tuple[str, ...], str] = {}
    for name, patterns in PATTERNS.items():
        if (name in WHOLE_WORDS_FIRST) == whole_words_first:
            first.setdefault(patterns, name)
    return list(first.values())


def _vocabulary(tokenizer: Tokenizer) -> list[Piece]:
    added = tokenizer.backend.get_added_tokens_decoder()
    texts = {token_id: text for text, token_id in tokenizer.backend.get_vocab(with_added_tokens=True).items()}
    return [
        Piece(texts[token_id], 0.0, PieceKind.USER_DEFINED if token_id in added else PieceKind.NORMAL)
        if token_id in texts
        else _hole(token_id)
        for token_id in range(max(texts) + 1)
    ]


def _hole(token_id: int) -> Piece:
    return Piece(f"[PAD{token_id}]", 0.0, PieceKind.UNUSED)


def _with_control(pieces: list[Piece], tokenizer: Tokenizer) -> list[Piece]:
    """The pieces with the tokenizer's control tokens under their names, added ones too."""
    names = tokenizer.control.name_of
    pieces += [_hole(token_id) for token_id in range(len(pieces), max(names, default=-1) + 1)]
    for token_id, name in names.items():
        if pieces[token_id].kind is not PieceKind.UNKNOWN:
            pieces[token_id] = Piece(name, pieces[token_id].score, PieceKind.CONTROL)
    return pieces


def _columns(pieces: list[Piece], vocab_size: int) -> dict[str, MetadataValue]:
    pieces = pieces + [_hole(token_id) for token_id in range(len(pieces), vocab_size)]
    columns: dict[str, MetadataValue] = {
        "tokens": [piece.text for piece in pieces],
        "token_type": np.array([piece.kind for piece in pieces], np.int32),
    }
    return columns


def _roles(tokenizer: Tokenizer) -> dict[str, MetadataValue]:
    others = sorted(tokenizer.eos_ids - {tokenizer.eos_id})
    ids: dict[str, MetadataValue | None] = {
        "bos_token_id": tokenizer.bos_id,
        "eos_token_id": tokenizer.eos_id,
        "padding_token_id": tokenizer.pad_id,
        "unknown_token_id": tokenizer.unk_id,
        "eot_token_id": others[0] if others else None,
        "eom_token_id": others[1] if len(others) > 1 else None,
    }
    flags: dict[str, MetadataValue] = {"add_bos_token": tokenizer.add_bos, "add_eos_token": tokenizer.add_eos}
    return {key: value for key, value in ids.items() if value is not None} | flags


def _is_same(tokenizer: Tokenizer, metadata: dict[str, MetadataValue]) -> bool:
    try:
        back = tokenizer_from_gguf(metadata)
    except ModelFileError:
        return False
    return (
        back.eos_ids == tokenizer.eos_ids
        and back.frame == tokenizer.frame
        and back.encode(PROBE) == tokenizer.encode(PROBE)
        and back.control.name_of == tokenizer.control.name_of
    )
