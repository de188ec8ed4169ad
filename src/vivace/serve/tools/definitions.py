"""Tools as a request defines them, checked."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from vivace.core.errors import RequestError

MAX_TOOLS = 128  # OpenAI's own limit
MAX_DESCRIPTION_CHARS = 1 << 16
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_NO_PARAMETERS: dict[str, Any] = {"type": "object", "properties": {}}


@dataclass(frozen=True, slots=True)
class Tool:
    """A function that the model may call. `parameters` is the JSON schema of its arguments, an object."""

    name: str
    description: str
    parameters: Mapping[str, Any]
    strict: bool
    definition: Mapping[str, Any]  # as templates expect it: {"type": "function", "function": {...}}


@dataclass(frozen=True, slots=True)
class ToolChoice:
    """Who decides on calls. `name`: only this function, once. `parallel`: more than one call is allowed."""

    mode: Literal["none", "auto", "required"]
    name: str | None = None
    parallel: bool = True


def read_tools(tools: Sequence[Mapping[str, Any]] | None) -> list[Tool]:
    """The request's `tools`. Raises `RequestError`."""
    if not tools:
        return []
    if isinstance(tools, str | Mapping) or not isinstance(tools, Sequence) or len(tools) > MAX_TOOLS:
        raise RequestError(f"tools must be a list of at most {MAX_TOOLS} functions", param="tools")
    read = [_read_tool(entry, f"tools[{position}]") for position, entry in enumerate(tools)]
    names = [tool.name for tool in read]
    for name in names:
        if names.count(name) > 1:
            raise RequestError(f"two tools have the name {name!r}", param="tools")
    return read


def _read_tool(entry: Any, where: str) -> Tool:
    function = entry.get("function") if isinstance(entry, Mapping) else None
    if not isinstance(function, Mapping) or entry.get("type", "function") != "function":
        raise RequestError(f'{where} must be {{"type": "function", "function": {{...}}}}', param=where)
    name = function.get("name")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise RequestError(f"{where}.function.name must match {_NAME.pattern}", param=where)
    description = function.get("description") or ""
    if not isinstance(description, str) or len(description) > MAX_DESCRIPTION_CHARS:
        raise RequestError(
            f"{where}.function.description must be a text of at most {MAX_DESCRIPTION_CHARS} characters", param=where
        )
    parameters = function.get("parameters") or _NO_PARAMETERS
    if not isinstance(parameters, Mapping) or parameters.get("type", "object") != "object":
        raise RequestError(f"{where}.function.parameters must be the JSON schema of an object", param=where)
    definition = {"type": "function", "function": _described(name, description, parameters)}
    return Tool(name, description, parameters, bool(function.get("strict")), definition)


def _described(name: str, description: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """What the model is shown: `strict` is between client and server."""
    return {"name": name, **({"description": description} if description else {}), "parameters": parameters}


def read_tool_choice(choice: str | Mapping[str, Any] | None, tools: Sequence[Tool], parallel: bool) -> ToolChoice:
    """The request's `tool_choice` and `parallel_tool_calls`. Raises `RequestError`."""
    if choice is None:
        return ToolChoice("auto" if tools else "none", parallel=parallel)
    if choice in ("none", "auto"):
        return ToolChoice("auto" if tools and choice == "auto" else "none", parallel=parallel)
    if not tools:
        raise RequestError("tool_choice needs tools", param="tool_choice")
    if choice == "required":
        return ToolChoice("required", parallel=parallel)
    name = _named(choice)
    if name is None:
        raise RequestError(
            'tool_choice must be "none", "auto", "required" or {"type": "function", "function": {"name": ...}}',
            param="tool_choice",
        )
    if all(tool.name != name for tool in tools):
        known = ", ".join(tool.name for tool in tools)
        raise RequestError(f"tool_choice names {name!r}; the tools are: {known}", param="tool_choice")
    return ToolChoice("required", name, parallel=False)


def _named(choice: object) -> str | None:
    if not isinstance(choice, Mapping) or choice.get("type") != "function":
        return None
    function = choice.get("function")
    name = function.get("name") if isinstance(function, Mapping) else choice.get("name")  # the Responses API is flat
    return name if isinstance(name, str) else None
