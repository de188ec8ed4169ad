"""What a tool format is: how messages and tools are rendered, how calls are enforced and how they are read."""

from __future__ import annotations

import secrets
import string
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from vivace.engine.structured_grammar import TokenId
from vivace.serve.tools.call_parser import CallFrame
from vivace.serve.tools.definitions import Tool, ToolChoice
from vivace.serve.tools.history import Message

_ALPHANUMERIC = string.ascii_letters + string.digits


@dataclass(frozen=True, slots=True)
class Rendering:
    """What the template gets. `tools` is None where the messages tell of the tools themselves."""

    messages: list[Message]
    tools: list[dict[str, object]] | None = None


class Layout(Protocol):
    """How calls are written."""

    @property
    def frame(self) -> CallFrame: ...

    @property
    def arguments_key(self) -> str: ...

    def grammar(self, tools: Sequence[Tool], choice: ToolChoice, token_id: TokenId, answer: str | None) -> str:
        """Lark text: calls alone for choice "required"; for "auto" any text, or `answer`, or calls."""
        ...


@dataclass(frozen=True, slots=True)
class ToolFormat:
    """One family's way. `parallel`: its template can show several calls in one answer."""

    name: str
    layout: Layout
    render: Callable[[list[Message], Sequence[Tool]], Rendering]
    parallel: bool = True
    new_id: Callable[[], str] = lambda: f"call_{secrets.token_hex(12)}"


def definitions(tools: Sequence[Tool]) -> list[dict[str, object]] | None:
    """The tools as a template's variable `tools`."""
    return [dict(tool.definition) for tool in tools] or None


def alphanumeric_id(length: int) -> str:
    """A random id of letters and digits."""
    return "".join(secrets.choice(_ALPHANUMERIC) for _ in range(length))
