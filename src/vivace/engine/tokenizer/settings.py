"""The small JSON files beside a Hugging Face vocabulary: which tokens have which role."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from vivace.core.errors import ModelFileError
from vivace.engine.tokenizer.control_tokens import ControlToken
from vivace.engine.tokenizer.tokenizer import END_OF_TURN_NAMES, Frame, SpecialIds

MAX_FILE_BYTES = 1 << 28  # the largest published tokenizer.json has 33 MB
MAX_TEMPLATE_BYTES = 1 << 20

IdOf = Callable[[str], int | None]


def read_text(path: Path, limit: int = MAX_FILE_BYTES) -> str:
    """The file's text. Raises `ModelFileError` for a file over `limit` bytes or not in UTF-8."""
    if path.stat().st_size > limit:
        raise ModelFileError(path, f"more than {limit} bytes")
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ModelFileError(path, "not UTF-8", offset=error.start) from error


def read_object(path: Path) -> dict[str, Any]:
    """A JSON object, or an empty one where the file is absent."""
    if not path.is_file():
        return {}
    try:
        value = json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise ModelFileError(path, f"not JSON: {error}") from error
    if not isinstance(value, dict):
        raise ModelFileError(path, "should hold a JSON object")
    return value


class TokenizerSettings:
    """tokenizer_config.json, special_tokens_map.json, added_tokens.json, generation_config.json, config.json."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._tokenizer = read_object(directory / "special_tokens_map.json")
        self._tokenizer |= read_object(directory / "tokenizer_config.json")
        self._model = read_object(directory / "config.json") | read_object(directory / "generation_config.json")

    @property
    def tokenizer_class(self) -> str:
        return str(self._tokenizer.get("tokenizer_class") or "").removesuffix("Fast")

    def added_tokens(self) -> dict[int, tuple[ControlToken, bool]]:
        """Added tokens by id, each with whether it is a control token."""
        found: dict[int, tuple[ControlToken, bool]] = {}
        for name, token_id in read_object(self.directory / "added_tokens.json").items():
            found[self._checked_id("added_tokens.json", name, token_id)] = (ControlToken(token_id, name), True)
        declared = self._tokenizer.get("added_tokens_decoder") or {}
        if not isinstance(declared, dict):
            raise self.error("added_tokens_decoder", "should be an object")
        for key, entry in declared.items():
            content = _name(entry)
            if content is None or not str(key).isdecimal():
                raise self.error("added_tokens_decoder", f"entry {key!r} has no id or no content")
            token = ControlToken(
                self._checked_id("added_tokens_decoder", content, int(key)),
                content,
                bool(entry.get("lstrip")),
                bool(entry.get("rstrip")),
            )
            found[token.token_id] = (token, bool(entry.get("special")))
        return found

    def special_ids(self, id_of: IdOf, vocab_size: int, fallback: SpecialIds | None = None) -> SpecialIds:
        """Roles by name from the tokenizer's files, then by id from the model's, then the vocabulary's own."""
        ends = set(self._model_ids("eos_token_id", vocab_size))
        ends |= {token_id for name in END_OF_TURN_NAMES if (token_id := id_of(name)) is not None}
        eos_id = self._first("eos_token", id_of, vocab_size, fallback.eos_id if fallback else None)
        if eos_id is not None:
            ends.add(eos_id)
        return SpecialIds(
            eos_id=eos_id,
            bos_id=self._first("bos_token", id_of, vocab_size, fallback.bos_id if fallback else None),
            eos_ids=frozenset(ends),
            pad_id=self._first("pad_token", id_of, vocab_size, fallback.pad_id if fallback else None),
            unk_id=self._first("unk_token", id_of, vocab_size, fallback.unk_id if fallback else None),
        )

    def frame(self, special: SpecialIds, default: Frame) -> Frame:
        """What `add_bos_token` and `add_eos_token` ask for; `default` where neither is written."""
        if "add_bos_token" not in self._tokenizer and "add_eos_token" not in self._tokenizer:
            return default
        bos, eos = special.bos_id, special.eos_id
        adds_bos = bool(self._tokenizer.get("add_bos_token", bool(default.before)))
        adds_eos = bool(self._tokenizer.get("add_eos_token", bool(default.after)))
        return Frame(
            (bos,) if adds_bos and bos is not None else (),
            (eos,) if adds_eos and eos is not None else (),
        )

    def chat_template(self) -> str | None:
        """The default chat template: its own file, else the entry of tokenizer_config.json."""
        path = self.directory / "chat_template.jinja"
        if path.is_file():
            return read_text(path, MAX_TEMPLATE_BYTES)
        template = self._tokenizer.get("chat_template")
        if isinstance(template, list):
            named = {entry.get("name"): entry.get("template") for entry in template if isinstance(entry, dict)}
            template = named.get("default")
        return template if isinstance(template, str) else None

    def error(self, field: str, reason: str) -> ModelFileError:
        return ModelFileError(self.directory / "tokenizer_config.json", reason, field=field)

    def _role(self, key: str, id_of: IdOf) -> int | None:
        name = _name(self._tokenizer.get(key))
        if not name:
            return None
        token_id = id_of(name)
        if token_id is None:
            raise self.error(key, f"{name!r} is not in the vocabulary")
        return token_id

    def _first(self, key: str, id_of: IdOf, vocab_size: int, fallback: int | None) -> int | None:
        token_id = self._role(key, id_of)
        declared: Iterable[int | None] = (token_id, *self._model_ids(f"{key}_id", vocab_size), fallback)
        return next((token_id for token_id in declared if token_id is not None), None)

    def _model_ids(self, key: str, vocab_size: int) -> list[int]:
        value = self._model.get(key)
        ids = value if isinstance(value, list) else [] if value is None else [value]
        for token_id in ids:
            if isinstance(token_id, bool) or not isinstance(token_id, int):
                raise ModelFileError(self.directory / "config.json", f"{token_id!r} is no token id", field=key)
        return [token_id for token_id in ids if 0 <= token_id < vocab_size]

    def _checked_id(self, field: str, name: str, token_id: object) -> int:
        if isinstance(token_id, bool) or not isinstance(token_id, int) or not 0 <= token_id < 2**31:
            raise self.error(field, f"{name!r} has the id {token_id!r}")
        return token_id


def _name(entry: object) -> str | None:
    if isinstance(entry, dict):
        entry = entry.get("content")
    return entry if isinstance(entry, str) else None
