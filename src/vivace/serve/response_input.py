"""From the items of a /v1/responses request to a conversation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from vivace.core.errors import RequestError
from vivace.serve.prompt_encoder import Chat
from vivace.serve.response_format import Constraint, read_constraint
from vivace.serve.wire import responses as wire

Message = dict[str, Any]


def read_conversation(body: wire.ResponsesRequest) -> Chat:
    """Raises `RequestError` with the parameter at fault."""
    messages: list[Message] = []
    if body.instructions:
        messages.append({"role": "system", "content": body.instructions})
    if isinstance(body.input, str):
        messages.append({"role": "user", "content": body.input})
    else:
        messages += _messages(body.input)
    variables: dict[str, Any] = {}
    if body.reasoning is not None and body.reasoning.effort is not None:
        variables["reasoning_effort"] = body.reasoning.effort
    return Chat(
        messages,
        sum(len(str(message["content"])) + 16 for message in messages),
        tools=_tools(body.tools),
        tool_choice=body.tool_choice,
        parallel_tool_calls=body.parallel_tool_calls is not False,
        constraint=_constraint(body.text),
        variables=variables,
    )


def _constraint(text: wire.TextOptions | None) -> Constraint | None:
    if text is None or text.format is None:
        return None
    constraint = read_constraint(response_format=text.format)
    return None if constraint is None else Constraint(constraint.outputs, "text.format")


def _messages(items: Sequence[wire.InputItem]) -> list[Message]:
    """Calls that follow each other, and the reasoning before them, belong to one message of the assistant."""
    messages: list[Message] = []
    reasoning: str | None = None
    for number, item in enumerate(items):
        where = f"input[{number}]"
        if item.type == "reasoning":
            reasoning = _text(item.content if item.content else item.summary)
            continue
        if item.type == "function_call_output":
            messages.append(
                {
                    "role": "tool",
                    "tool_call_id": _given(item.call_id, f"{where}.call_id"),
                    "content": _text(item.output),
                }
            )
        elif item.type == "function_call":
            if not messages or messages[-1]["role"] != "assistant":
                messages.append({"role": "assistant", "content": ""})
            messages[-1].setdefault("tool_calls", []).append(_call(item, where))
        else:
            messages.append({"role": _given(item.role, f"{where}.role"), "content": _text(item.content)})
        if reasoning is not None and messages[-1]["role"] == "assistant":
            messages[-1]["reasoning_content"] = reasoning
        reasoning = None
    return messages


def _call(item: wire.InputItem, where: str) -> dict[str, Any]:
    function = {"name": _given(item.name, f"{where}.name"), "arguments": item.arguments or "{}"}
    return {"id": _given(item.call_id, f"{where}.call_id"), "type": "function", "function": function}


def _given(value: str | None, param: str) -> str:
    if not value:
        raise RequestError(f"{param} is missing", param=param)
    return value


def _text(content: str | Sequence[wire.Part] | None) -> str:
    if content is None or isinstance(content, str):
        return content or ""
    return "".join(part.refusal if isinstance(part, wire.EarlierRefusal) else part.text for part in content)


def _tools(tools: Sequence[Mapping[str, Any]] | None) -> list[dict[str, Any]] | None:
    """Tools of this API are flat; everywhere else they have their own object."""
    if tools is None:
        return None
    return [_nested(tool, f"tools[{number}]") for number, tool in enumerate(tools)]


def _nested(tool: Mapping[str, Any], where: str) -> dict[str, Any]:
    if tool.get("type") != "function":
        raise RequestError(f"{where}: only tools of type function are served", param=f"{where}.type")
    return {"type": "function", "function": {key: value for key, value in tool.items() if key != "type"}}
