"""Real chats from a file, JSON lines or one array: in ShareGPT's form (`conversations`: from, value) or OpenAI's
(`messages`: role, content)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from vivace.bench.traffic.dialogue import Dialogue, Turn
from vivace.bench.traffic.prompt_text import TextEncoder
from vivace.bench.traffic.record_file import file_records
from vivace.bench.traffic.setting import Setting
from vivace.core.errors import ConfigError

ROLES = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bing": "assistant",
    "bard": "assistant",
    "bot": "assistant",
    "assistant": "assistant",
    "system": "system",
    "developer": "system",
}
# Conversations among which the next is drawn: the order depends on the seed, the file is read as needed.
BUFFER = 1024
THINK_S = 1.0


@dataclass(frozen=True, slots=True)
class Conversation:
    """`pairs` of question and answer, under a system prompt or none."""

    pairs: tuple[tuple[str, str], ...]
    system: str | None


def read_conversations(path: str | Path) -> Iterator[Conversation]:
    """Conversations that begin with a question (after a system prompt) and have an answer to it, cut where questions
    and answers no longer take turns. Raises `ConfigError` naming file, place and field."""
    for where, record in file_records(path):
        field = next((name for name in ("conversations", "messages") if isinstance(record.get(name), list)), None)
        if field is None:
            raise ConfigError(f"{where} has no list 'conversations' or 'messages'; it has {', '.join(record)[:100]}")
        said = [_message(one, f"{where}, {field}[{index}]") for index, one in enumerate(record[field])]
        conversation = _conversation(said)
        if conversation.pairs:
            yield conversation


def file_conversations(path: str | Path, setting: Setting, encoder: TextEncoder) -> Iterator[Dialogue]:
    """The file's conversations in an order that the setting's random numbers choose, each once."""
    frame = len(encoder.encode(""))
    for conversation in _shuffled(read_conversations(path), setting.random):
        turns = tuple(
            Turn(
                question,
                max(1, len(encoder.encode(answer)) - frame),
                answer,
                setting.pause_s(THINK_S) if index else 0,
            )
            for index, (question, answer) in enumerate(conversation.pairs)
        )
        yield Dialogue(turns, conversation.system)


def _shuffled(conversations: Iterator[Conversation], random: Random) -> Iterator[Conversation]:
    waiting: list[Conversation] = []
    for conversation in conversations:
        waiting.append(conversation)
        if len(waiting) > BUFFER:
            yield waiting.pop(random.randrange(len(waiting)))
    while waiting:
        yield waiting.pop(random.randrange(len(waiting)))


def _conversation(said: list[tuple[str, str]]) -> Conversation:
    system = said[0][1] if said and said[0][0] == "system" else None
    said = said if system is None else said[1:]
    pairs: list[tuple[str, str]] = []
    for (asker, question), (answerer, answer) in zip(said[::2], said[1::2], strict=False):
        if (asker, answerer) != ("user", "assistant") or not question.strip() or not answer.strip():
            break
        pairs.append((question, answer))
    return Conversation(tuple(pairs), system)


def _message(value: Any, where: str) -> tuple[str, str]:
    if not isinstance(value, dict):
        raise ConfigError(f"{where} is no object")
    role, content = value.get("role", value.get("from")), value.get("content", value.get("value"))
    if isinstance(content, list):  # OpenAI's parts; what is no text is left out
        content = "".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    if not isinstance(role, str) or not isinstance(content, str):
        raise ConfigError(f"{where} needs role and content (or from and value), both texts")
    if not content.isascii() and any("\ud800" <= character <= "\udfff" for character in content):
        raise ConfigError(f"{where} holds a lone surrogate, which is no Unicode character")
    return ROLES.get(role, role), content
