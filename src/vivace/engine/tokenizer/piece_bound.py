"""How much text one token can stand for: what tells, from its length alone, that a text cannot fit."""

from __future__ import annotations

import json
from typing import Any

import tokenizers

from vivace.engine.tokenizer.token_bytes import byte_alphabet

_NFC_SHRINKS = 3  # Unicode's bound on how much longer a text in UTF-8 is than its NFC form (UAX 15, section 13)
_KEEPS_TEXT = {"ByteLevel", "Digits", "Metaspace", "Prepend"}


def max_bytes_per_token(backend: tokenizers.Tokenizer) -> int | None:
    """No token stands for more bytes of UTF-8 than this. None where a step may swallow any amount of text."""
    factor = _shrinking(_steps(backend.normalizer)) * _shrinking(_steps(backend.pre_tokenizer))
    if not factor or not _spells_every_byte(backend):
        return None
    names = [*backend.get_vocab(with_added_tokens=True)]
    return int(factor) * max(len(name.encode()) for name in names)


def _steps(component: Any) -> list[dict[str, Any]]:
    if component is None:
        return []
    state: dict[str, Any] = json.loads(component.__getstate__())
    parts: list[dict[str, Any]] | None = state.get("normalizers") or state.get("pretokenizers")
    return [state] if parts is None else parts


def _shrinking(steps: list[dict[str, Any]]) -> int:
    """By what factor the steps can shorten a text; 0: by any."""
    factor = 1
    for step in steps:
        kind = step["type"]
        if kind == "NFC":
            factor *= _NFC_SHRINKS
        elif kind == "Replace":
            pattern = step["pattern"].get("String")
            if not pattern or len(step["content"].encode()) < len(pattern.encode()):
                return 0
        elif kind == "Split":
            if step["behavior"] == "Removed":
                return 0
        elif kind not in _KEEPS_TEXT:
            return 0
    return factor


def _spells_every_byte(backend: tokenizers.Tokenizer) -> bool:
    """Whether no text is lost as unknown: each byte has a token of its own."""
    if getattr(backend.model, "byte_fallback", False):
        return all(backend.token_to_id(f"<0x{byte:02X}>") is not None for byte in range(256))
    kinds = {step["type"] for step in _steps(backend.pre_tokenizer)}
    return "ByteLevel" in kinds and all(backend.token_to_id(character) is not None for character in byte_alphabet())
