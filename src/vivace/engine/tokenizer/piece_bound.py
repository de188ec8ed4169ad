"""How much text one token can stand for: what tells, from its length alone, that a text cannot fit."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import tokenizers

from vivace.engine.tokenizer.token_bytes import byte_alphabet

_NFC_SHRINKS = 3  # Unicode's bound on how much longer a text in UTF-8 is than its NFC form (UAX 15, section 13)
_KEEPS_TEXT = {"ByteLevel", "Digits", "Metaspace", "Prepend"}


@dataclass(frozen=True, slots=True)
class PieceBound:
    """No token stands for more than `max_bytes` bytes of UTF-8; bytes among `lost` have no token and disappear."""

    max_bytes: int
    lost: bytes

    def min_tokens(self, text: str) -> int:
        """Tokens that `text` has at least. 4 MiB take 5 ms, where encoding takes seconds."""
        return len(text.encode(errors="ignore").translate(None, self.lost)) // self.max_bytes


def piece_bound(backend: tokenizers.Tokenizer) -> PieceBound | None:
    """None where a step may swallow any amount of text."""
    factor = _shrinking(_steps(backend.normalizer)) * _shrinking(_steps(backend.pre_tokenizer))
    lost = _lost_bytes(backend)
    if not factor or lost is None:
        return None
    names = backend.get_vocab(with_added_tokens=True)
    return PieceBound(factor * max(len(name.encode()) for name in names), lost)


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


def _lost_bytes(backend: tokenizers.Tokenizer) -> bytes | None:
    """Bytes without a token of their own. None where what is unknown is not spelled in bytes."""
    if getattr(backend.model, "byte_fallback", False):
        has_all = all(backend.token_to_id(f"<0x{byte:02X}>") is not None for byte in range(256))
        return b"" if has_all else None
    if "ByteLevel" not in {step["type"] for step in _steps(backend.pre_tokenizer)}:
        return None
    return bytes(byte for character, byte in byte_alphabet().items() if backend.token_to_id(character) is None)
