"""Messages as templates can read them: text instead of parts, parsed arguments, no empty fields."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from vivace.core.errors import RequestError

Message = dict[str, Any]

_ROLES = frozenset({"system", "developer", "user", "assistant", "tool"})
_KEPT = ("name", "tool_call_id", "reasoning_content")


def read_messages(messages: Sequence[Mapping[str, Any]]) -> list[Message]:
    """The request's `messages`. Raises `RequestError` for roles, parts and calls that nothing here can serve.

    `content` is always a string, `tool_calls` is absent or not empty, and its arguments are objects.
    """
    if isinstance(messages, str | Mapping) or not messages:
        raise RequestError("messages must be a list with at least one message", param="messages")
    return [_read_message(message, f"messages[{position}]") for position, message in enumerate(messages)]


def _read_message(message: Any, where: str) -> Message:
    if not isinstance(message, Mapping):
        raise RequestError(f"{where} must be an object", param=where)
    role = message.get("role")
    if role not in _ROLES:
        raise RequestError(f"{where}.role must be one of {', '.join(sorted(_ROLES))}, not {role!r}", param=where)
    read: Message = {
        "role": "system" if role == "developer" else role,
        "content": _text(message.get("content"), f"{where}.content"),
    }
    for key in _KEPT:
        if message.get(key) is not None:
            read[key] = message[key]
    calls = message.get("tool_calls")
    if calls:
        if role != "assistant":
            raise RequestError(f"{where}: only an assistant message has tool_calls", param=where)
        read["tool_calls"] = [_read_call(call, f"{where}.tool_calls") for call in calls]
    if role == "tool" and not isinstance(read.get("tool_call_id"), str):
        raise RequestError(f"{where} answers a tool call and needs its tool_call_id", param=where)
    return read


def _text(content: Any, where: str) -> str:
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if not isinstance(content, Sequence):
        raise RequestError(f"{where} must be a text or a list of parts", param=where)
    return "".join(_part_text(part, where) for part in content)


def _part_text(part: Any, where: str) -> str:
    kind = part.get("type") if isinstance(part, Mapping) else None
    text = part.get("refusal" if kind == "refusal" else "text") if isinstance(part, Mapping) else None
    if kind not in ("text", "input_text", "output_text", "refusal") or not isinstance(text, str):
        raise RequestError(f"{where}: this model reads text parts only, not {kind!r}", param=where)
    return text


def _read_call(call: Any, where: str) -> dict[str, Any]:
    function = call.get("function") if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise RequestError(f"{where} must hold functions with a name", param=where)
    return {
        "id": str(call.get("id") or ""),
        "type": "function",
        "function": {"name": function["name"], "arguments": _arguments(function.get("arguments"), where)},
    }


def _arguments(arguments: Any, where: str) -> dict[str, Any]:
    try:
        value = json.loads(arguments or "{}") if isinstance(arguments, str) else arguments or {}
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, Mapping):
        raise RequestError(f"{where}: arguments must be the JSON text of an object", param=where)
    return dict(value)
