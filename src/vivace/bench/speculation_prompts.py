"""Prompts to try speculation on: the user's own, or pieces of the package's text."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

from vivace.core.errors import ConfigError
from vivace.formats.text_file import read_text
from vivace.resources.passages import passages

FIELDS = ("prompt", "question", "text", "instruction")


def read_prompts(path: Path) -> list[str]:
    """JSONL: an object a line with "prompt", "question", "text", "instruction", "turns" (the first) or "messages"
    (the first user's). Other text: a prompt a paragraph. Raises `ConfigError`."""
    text = read_text(path.expanduser())
    if text.lstrip()[:1] == "{":
        lines = [(number, line) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
        prompts = [_prompt(line, f"{path}, line {number}") for number, line in lines]
    else:
        prompts = [piece.strip() for piece in text.split("\n\n") if piece.strip()]
    if not prompts:
        raise ConfigError(f"prompts {path}: the file is empty")
    return prompts


def _prompt(line: str, place: str) -> str:
    try:
        entry: Any = json.loads(line)
    except ValueError as error:
        raise ConfigError(f"{place} is not JSON: {error}") from None
    if isinstance(entry, dict):
        candidates = [entry.get(name) for name in FIELDS]
        turns = entry.get("turns") or [one.get("content") for one in _users(entry.get("messages"))]
        candidates.extend(turns[:1] if isinstance(turns, list) else [])
        for candidate in candidates:
            if isinstance(candidate, str) and candidate:
                return candidate
    raise ConfigError(f'{place} has no prompt: an object with "prompt", "question", "text", "turns" or "messages"')


def _users(messages: object) -> list[dict[str, Any]]:
    entries = messages if isinstance(messages, list) else []
    return [one for one in entries if isinstance(one, dict) and one.get("role") == "user"]


class Prompts:
    """Token ids of `count` prompts of a length: `texts` cut to their last tokens, or pieces of the package's text.

    `encode` None (no tokenizer): random ids below `vocab_size`.
    """

    def __init__(
        self, encode: Callable[[str], list[int]] | None, vocab_size: int, seed: int, texts: list[str] | None
    ) -> None:
        if texts and encode is None:
            raise ConfigError("this model has no tokenizer: it cannot read prompts")
        self._own = [encode(text) for text in texts] if texts and encode else []
        self._text = encode(passages()) if encode and not texts else []
        self._vocab_size = vocab_size
        self._seed = seed

    def take(self, count: int, length: int) -> list[list[int]]:
        if self._own:
            return [self._own[number % len(self._own)][-length:] for number in range(count)]
        if not self._text:
            random = Random(self._seed)
            return [[random.randrange(self._vocab_size) for _ in range(length)] for _ in range(count)]
        step = max(1, (len(self._text) - length) // count)
        return [self._text[first : first + length] for first in range(0, count * step, step)]
