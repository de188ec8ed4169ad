"""Calibration data: token windows of the user's text or chats, or of a sample that comes with the package.

A text file, or JSON lines whose records hold `messages`, `conversations`, `text` or `prompt`; chats go through the
model's chat template. Which pieces are read is a function of the seed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vivace.core.errors import ConfigError, VivaceError
from vivace.engine.chat_template import encode_chat
from vivace.engine.tokenizer import Tokenizer
from vivace.resources.passages import DOCUMENT_MARK, passages

BUILT_IN = "built-in"
MAX_FILE_BYTES = 256 << 20
PIECE_CHARACTERS = 4096  # of a text: pieces are drawn at random, so that a sample covers all of it
CHAT_ROLES = {"human": "user", "gpt": "assistant", "bot": "assistant", "chatgpt": "assistant"}  # ShareGPT's words
FEWEST_TOKENS = 32

Message = Mapping[str, Any]
Record = str | list[Message]


@dataclass(frozen=True, slots=True, eq=False)
class Calibration:
    """Windows [S, L] of token ids, where they come from, and their checksum."""

    token_ids_SL: NDArray[np.int32]
    source: str

    @property
    def num_tokens(self) -> int:
        return int(self.token_ids_SL.size)

    @property
    def checksum(self) -> str:
        return hashlib.sha256(self.token_ids_SL.astype("<i4").tobytes()).hexdigest()


def load_calibration(
    tokenizer: Tokenizer, dataset: str | None, *, num_samples: int, seq_len: int, seed: int
) -> Calibration:
    """Up to `num_samples` windows of `seq_len` tokens; fewer where the data hold fewer, one that is shorter where
    they do not fill one. `dataset` is a file, or None or "built-in" for the sample of the package.

    Raises ConfigError, naming file and line, for data that cannot be read or hold too little.
    """
    records, source = _records(dataset)
    order = np.random.default_rng(seed).permutation(len(records))
    wanted = num_samples * seq_len
    ids: list[int] = []
    for index in order:
        ids += _encoded(tokenizer, records[index], source)
        if len(ids) >= wanted:
            break
    if len(ids) < FEWEST_TOKENS:
        raise ConfigError(f"{source} holds {len(ids)} tokens: calibration needs at least {FEWEST_TOKENS}")
    window = min(seq_len, len(ids))
    count = min(num_samples, len(ids) // window)
    return Calibration(np.array(ids[: count * window], np.int32).reshape(count, window), source)


def _records(dataset: str | None) -> tuple[list[Record], str]:
    if dataset is None or dataset == BUILT_IN:
        return _pieces(passages()), f"the {BUILT_IN} sample"
    path = Path(dataset).expanduser()
    text = _read(path)
    records = _json_records(text, path) if path.suffix.lower() in (".jsonl", ".ndjson", ".json") else _pieces(text)
    if not records:
        raise ConfigError(f"{path} holds no text")
    return records, str(path)


def _read(path: Path) -> str:
    try:
        if not path.is_file():
            reason = "no such file" if not path.exists() else "not a file"
            raise ConfigError(f"cannot read {path}: {reason}; give a text or JSONL file, or leave --calibration out")
        if path.stat().st_size > MAX_FILE_BYTES:
            raise ConfigError(f"{path} is larger than {MAX_FILE_BYTES >> 20} MiB: give a part of it")
        return path.read_bytes().decode()
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 text (byte {error.start})") from None


def _pieces(text: str) -> list[Record]:
    """Pieces of a text, cut at ends of paragraphs; none crosses a document's end."""
    pieces: list[Record] = []
    for document in text.split(f"\n{DOCUMENT_MARK}\n"):
        piece = ""
        for paragraph in document.split("\n\n"):
            piece += f"{paragraph}\n\n"
            if len(piece) >= PIECE_CHARACTERS:
                pieces.append(piece)
                piece = ""
        if piece.strip():
            pieces.append(piece)
    return pieces


def _json_records(text: str, path: Path) -> list[Record]:
    return [_record(line, f"{path}, line {number}") for number, line in _lines(text)]


def _lines(text: str) -> Iterator[tuple[int, str]]:
    return ((number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip())


def _record(line: str, where: str) -> Record:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{where} is no JSON object: {error!s:.100}") from None
    if not isinstance(value, dict):
        raise ConfigError(f"{where} is no JSON object")
    for key in ("messages", "conversations"):
        if isinstance(value.get(key), list):
            return [_message(one, where) for one in value[key]]
    for key in ("text", "prompt"):
        if isinstance(value.get(key), str):
            return str(value[key])
    raise ConfigError(f"{where} has no messages, conversations, text or prompt; it has {', '.join(value)[:100]}")


def _message(value: object, where: str) -> Message:
    """OpenAI's form (role, content) or ShareGPT's (from, value)."""
    if not isinstance(value, dict):
        raise ConfigError(f"{where}: a message is no object")
    role, content = value.get("role", value.get("from")), value.get("content", value.get("value"))
    if isinstance(content, list):
        parts = [part.get("text") for part in content if isinstance(part, dict)]
        content = "".join(part for part in parts if isinstance(part, str))
    if not isinstance(role, str) or not isinstance(content, str):
        raise ConfigError(f"{where}: a message needs role and content")
    return {"role": CHAT_ROLES.get(role, role), "content": content}


def _encoded(tokenizer: Tokenizer, record: Record, source: str) -> list[int]:
    try:
        if isinstance(record, str):
            return tokenizer.encode(record)
        if tokenizer.chat_template is None:
            return tokenizer.encode(_as_text(record))
        return encode_chat(tokenizer, record, add_generation_prompt=False)
    except VivaceError as error:
        raise ConfigError(f"{source}: a record cannot be encoded: {error}") from None


def _as_text(messages: Sequence[Message]) -> str:
    return "\n\n".join(message["content"] for message in messages)
