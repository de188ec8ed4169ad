"""What a continuation's text turns into: content, reasoning and tool calls, piece by piece."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class ContentDelta:
    """Text for the user."""

    text: str


@dataclass(frozen=True, slots=True)
class ReasoningDelta:
    """Text that the model thinks; it goes to `reasoning_content`."""

    text: str


@dataclass(frozen=True, slots=True)
class ToolCallStart:
    """Call `index` (0, 1, ...) of the continuation begins. Its arguments follow."""

    index: int
    id: str
    name: str


@dataclass(frozen=True, slots=True)
class ToolCallArguments:
    """A further piece of the JSON text of call `index`'s arguments."""

    index: int
    text: str


OutputDelta = ContentDelta | ReasoningDelta | ToolCallStart | ToolCallArguments


class OutputParser(Protocol):
    """Reads the text of one continuation.

    The deltas, joined, do not depend on how the text was cut. A marker is never given out in parts: what may still
    become one is held back until it is decided, at the latest by `finish`.
    """

    def push(self, text: str) -> list[OutputDelta]:
        """What `text`, the next piece, adds."""
        ...

    def finish(self) -> list[OutputDelta]:
        """What was held back. Call once, at the end of the text."""
        ...

    @property
    def num_tool_calls(self) -> int:
        """Calls begun so far. Above 0, a "stop" of the engine is OpenAI's finish reason "tool_calls"."""
        ...


class ContentParser:
    """All text is content."""

    num_tool_calls = 0

    def push(self, text: str) -> list[OutputDelta]:
        return [ContentDelta(text)] if text else []

    def finish(self) -> list[OutputDelta]:
        return []


@dataclass(slots=True)
class ToolCall:
    """A whole call: `arguments` is JSON text."""

    id: str
    name: str
    arguments: str


@dataclass(slots=True)
class ParsedOutput:
    """A whole continuation."""

    content: str
    reasoning: str
    tool_calls: list[ToolCall]


def gather(deltas: Iterable[OutputDelta]) -> ParsedOutput:
    """Joins the deltas of one continuation, for answers that are not streamed."""
    content: list[str] = []
    reasoning: list[str] = []
    calls: list[ToolCall] = []
    for delta in deltas:
        match delta:
            case ContentDelta(text):
                content.append(text)
            case ReasoningDelta(text):
                reasoning.append(text)
            case ToolCallStart(_, call_id, name):
                calls.append(ToolCall(call_id, name, ""))
            case ToolCallArguments(index, text):
                calls[index].arguments += text
    return ParsedOutput("".join(content), "".join(reasoning), calls)
