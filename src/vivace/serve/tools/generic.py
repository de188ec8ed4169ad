"""Tools for templates that know none: a system message of ours describes them, calls are written as by Hermes."""

from __future__ import annotations

import json
from collections.abc import Sequence

from vivace.serve.tools.definitions import Tool
from vivace.serve.tools.format import Rendering, ToolFormat
from vivace.serve.tools.hermes import HERMES_LAYOUT
from vivace.serve.tools.history import Message

_INTRODUCTION = """You can call these functions, one JSON schema a line:
{tools}
To call one, write exactly this, as often as you need:
<tool_call>
{{"name": "function name", "arguments": {{...}}}}
</tool_call>
Results come back inside <tool_response>. Answer in plain text when no call is needed."""


def _render(messages: list[Message], tools: Sequence[Tool]) -> Rendering:
    rendered = _merged([_as_text(message) for message in messages])
    if tools:
        lines = "\n".join(json.dumps(tool.definition["function"], ensure_ascii=False) for tool in tools)
        rendered = _with_system(rendered, _INTRODUCTION.format(tools=lines))
    return Rendering(rendered)


def _as_text(message: Message) -> Message:
    """Calls and their results as plain messages."""
    if message["role"] == "tool":
        return {"role": "user", "content": f"<tool_response>\n{message['content']}\n</tool_response>"}
    calls = [_call_text(call["function"]) for call in message.get("tool_calls", ())]
    if not calls:
        return message
    return {"role": "assistant", "content": "\n".join([*filter(None, [message["content"]]), *calls])}


def _call_text(function: dict[str, object]) -> str:
    call = json.dumps({"name": function["name"], "arguments": function["arguments"]}, ensure_ascii=False)
    return f"<tool_call>\n{call}\n</tool_call>"


def _merged(messages: list[Message]) -> list[Message]:
    """Results of several calls, and what the user says next, are one turn: many templates want turns to alternate."""
    merged: list[Message] = []
    for message in messages:
        before = merged[-1] if merged else None
        if (
            before is not None
            and before["role"] == message["role"] == "user"
            and before["content"].endswith("</tool_response>")
        ):
            merged[-1] = {"role": "user", "content": f"{before['content']}\n{message['content']}"}
        else:
            merged.append(message)
    return merged


def _with_system(messages: list[Message], text: str) -> list[Message]:
    if messages[0]["role"] == "system":
        first = {"role": "system", "content": f"{messages[0]['content']}\n\n{text}"}
        return [first, *messages[1:]]
    return [{"role": "system", "content": text}, *messages]


def without_system(messages: list[Message]) -> list[Message]:
    """The system message moved into the first turn of the user, for templates that refuse one."""
    if messages[0]["role"] != "system" or len(messages) < 2 or messages[1]["role"] != "user":
        return messages
    content = f"{messages[0]['content']}\n\n{messages[1]['content']}"
    return [{"role": "user", "content": content}, *messages[2:]]


GENERIC = ToolFormat("generic", HERMES_LAYOUT, _render)
