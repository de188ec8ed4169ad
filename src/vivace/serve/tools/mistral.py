"""Mistral: `[TOOL_CALLS]` and a JSON array of calls. Ids have nine letters and digits, or the template refuses."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence

from vivace.serve.tools.call_parser import CallFrame
from vivace.serve.tools.definitions import Tool
from vivace.serve.tools.format import Rendering, ToolFormat, alphanumeric_id, definitions
from vivace.serve.tools.grammar import CallLayout
from vivace.serve.tools.history import Message

ID_LENGTH = 9
_OWN_ID = re.compile(f"[A-Za-z0-9]{{{ID_LENGTH}}}")


def _render(messages: list[Message], tools: Sequence[Tool]) -> Rendering:
    return Rendering([_with_own_ids(message) for message in messages], definitions(tools))


def _with_own_ids(message: Message) -> Message:
    message = dict(message)
    if "tool_call_id" in message:
        message["tool_call_id"] = _own_id(message["tool_call_id"])
    if "tool_calls" in message:
        message["tool_calls"] = [{**call, "id": _own_id(call["id"])} for call in message["tool_calls"]]
    return message


def _own_id(call_id: str) -> str:
    """The id itself if it fits, else nine characters that depend on it alone: call and answer stay together."""
    return call_id if _OWN_ID.fullmatch(call_id) else hashlib.sha256(call_id.encode()).hexdigest()[:ID_LENGTH]


MISTRAL = ToolFormat(
    "mistral",
    CallLayout(
        CallFrame("[TOOL_CALLS]", opening="[", separator=",", closing="]"),
        "arguments",
        head="[",
        tail="",
        between=", ",
    ),
    _render,
    new_id=lambda: alphanumeric_id(ID_LENGTH),
)
