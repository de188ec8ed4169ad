"""Hermes and Qwen: `<tool_call>` JSON `</tool_call>`, one block a call."""

from __future__ import annotations

from collections.abc import Sequence

from vivace.serve.tools.call_parser import CallFrame
from vivace.serve.tools.definitions import Tool
from vivace.serve.tools.format import Rendering, ToolFormat, definitions
from vivace.serve.tools.grammar import CallLayout
from vivace.serve.tools.history import Message

HERMES_LAYOUT = CallLayout(
    CallFrame("<tool_call>", closing="</tool_call>"), "arguments", head="\n", tail="\n", between="\n"
)


def _render(messages: list[Message], tools: Sequence[Tool]) -> Rendering:
    return Rendering(messages, definitions(tools))


HERMES = ToolFormat("hermes", HERMES_LAYOUT, _render)
