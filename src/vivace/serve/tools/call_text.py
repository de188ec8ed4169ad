"""The JSON text of one call: `{"name": "...", "arguments": {...}}`, which arrives in pieces."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import NoReturn


class JsonExtent:
    """Finds where a JSON object or array ends. It counts brackets outside strings; it does not validate.

    `depth`: brackets that are open already.
    """

    __slots__ = ("_depth", "_escaped", "_in_string")

    def __init__(self, depth: int = 0) -> None:
        self._depth = depth
        self._in_string = False
        self._escaped = False

    def end(self, text: str) -> int | None:
        """Characters of `text`, the next piece, that still belong to the value; None while it goes on."""
        for position, character in enumerate(text):
            if self._in_string:
                if self._escaped:
                    self._escaped = False
                elif character == "\\":
                    self._escaped = True
                elif character == '"':
                    self._in_string = False
            elif character == '"':
                self._in_string = True
            elif character in "{[":
                self._depth += 1
            elif character in "}]":
                self._depth -= 1
                if self._depth <= 0:
                    return position + 1
        return None


@dataclass(frozen=True, slots=True)
class CallText:
    """A complete call: the function's name and the JSON text of its arguments."""

    name: str
    arguments: str


class CallSyntax:
    """How a model writes a call: the key of its arguments, and the functions that there are."""

    def __init__(self, names: frozenset[str], arguments_key: str) -> None:
        self.names = names
        self.arguments_key = arguments_key
        self._head = re.compile(r'\s*\{\s*"name"\s*:\s*"([^"\\]*)"\s*,\s*"' + arguments_key + r'"\s*:\s*(?=\{)')

    def head(self, text: str) -> tuple[str, int] | None:
        """The name and where the arguments begin, once `text` (the call so far) shows both."""
        match = self._head.match(text)
        return (match[1], match.end()) if match and match[1] in self.names else None

    def read(self, text: str) -> CallText | None:
        """The call that the whole object `text` is; None when it is none."""
        try:
            call = json.loads(text, parse_constant=_refuse_constant)
        except (ValueError, RecursionError):
            return None
        if not isinstance(call, dict):
            return None
        name, arguments = call.get("name"), call.get(self.arguments_key, {})
        if not isinstance(name, str) or name not in self.names or not isinstance(arguments, dict):
            return None
        head = self.head(text)
        if head is None:
            return CallText(name, json.dumps(arguments, ensure_ascii=False))
        rest = text[head[1] :]
        return CallText(name, rest[: JsonExtent().end(rest)])


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")
