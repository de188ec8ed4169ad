"""Grammars that enforce calls: once a call begins, its JSON follows the tool's schema."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from vivace.engine.structured_grammar import TokenId, json_rule, literal, marker
from vivace.serve.tools.call_parser import CallFrame
from vivace.serve.tools.definitions import Tool, ToolChoice

MAX_CALLS = 8  # enforced in one answer: without a bound a weak model calls until its tokens are out
ANY_TEXT = "/(?s:.*)/"
_OPEN_SHAPES = frozenset({"additionalProperties", "patternProperties", "$ref", "anyOf", "oneOf", "allOf"})


@dataclass(frozen=True, slots=True)
class CallLayout:
    """Exactly how calls are written, for a grammar; a `CallFrame` says what is accepted.

    `head` and `tail` enclose what one marker begins; `between` stands between calls inside it where `frame` has a
    separator, else between whole blocks.
    """

    frame: CallFrame
    arguments_key: str
    head: str
    tail: str
    between: str

    def grammar(self, tools: Sequence[Tool], choice: ToolChoice, token_id: TokenId, answer: str | None) -> str:
        """Lark text.

        Choice "required": calls alone. "auto": any text with calls in it, or, given `answer` (the body of a rule),
        either calls or that.
        """
        rules = [f"call: {call_rule(tools, choice, self.arguments_key)}", self._block(choice, token_id)]
        if choice.mode == "auto" and answer is None:
            return "\n".join(self._free(choice, token_id) + rules) + "\n"
        opened = f"{marker(self.frame.marker, token_id)} block"
        calls = opened
        if choice.parallel and not self.frame.separator:
            calls = f"{opened} ({literal(self.between)} {opened}){{0,{MAX_CALLS - 1}}}"
        if choice.mode == "auto":
            return "\n".join([f"start: calls | answer\ncalls: {calls}\nanswer: {answer}", *rules]) + "\n"
        return "\n".join([f"start: {calls}", *rules]) + "\n"

    def _block(self, choice: ToolChoice, token_id: TokenId) -> str:
        """What follows one marker."""
        closing = marker(self.frame.closing, token_id) if self.frame.closing else ""
        more = (
            f"({literal(self.between)} call){{0,{MAX_CALLS - 1}}}" if self.frame.separator and choice.parallel else ""
        )
        return f"block: {literal(self.head)} call {more} {literal(self.tail)} {closing}"

    def _free(self, choice: ToolChoice, token_id: TokenId) -> list[str]:
        """Any text; whatever follows a marker must be a block."""
        name = self.frame.marker
        begun = f"{ANY_TEXT} {literal(name)}" if token_id(name) is None else f"{ANY_TEXT} {marker(name, token_id)}"
        lazy = "[lazy]" if token_id(name) is None else ""
        repeated = choice.parallel and not self.frame.separator
        start = f"start: (begun block){{0,{MAX_CALLS}}} TEXT" if repeated else "start: begun block | TEXT"
        return [start, f"begun{lazy}: {begun}", f"TEXT: {ANY_TEXT}"]


def call_rule(tools: Sequence[Tool], choice: ToolChoice, arguments_key: str) -> str:
    """One call of a tool that `choice` allows, as JSON."""
    return " | ".join(_call(tool, arguments_key) for tool in tools if choice.name in (None, tool.name))


def _call(tool: Tool, arguments_key: str) -> str:
    head = f'{{"name": "{tool.name}", "{arguments_key}": '
    return f"{literal(head)} {_arguments(tool)} {literal('}')}"


def _arguments(tool: Tool) -> str:
    """JSON that the tool takes. Keys that it does not name are left out where its schema leaves them open."""
    schema: dict[str, Any] = {"type": "object", **tool.parameters}
    if schema.get("properties") is not None and not _OPEN_SHAPES & schema.keys():
        schema["additionalProperties"] = False
    return json_rule(schema, lenient=not tool.strict)
