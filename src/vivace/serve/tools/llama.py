"""Llama 3.x: the whole answer is `{"name": ..., "parameters": ...}`, with or without `<|python_tag|>` before it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vivace.engine.structured_grammar import TokenId, marker
from vivace.serve.tools.call_parser import CallFrame
from vivace.serve.tools.definitions import Tool, ToolChoice
from vivace.serve.tools.format import Rendering, ToolFormat, definitions
from vivace.serve.tools.grammar import call_rule
from vivace.serve.tools.history import Message


@dataclass(frozen=True, slots=True)
class LlamaLayout:
    """A call is the whole answer: a grammar has one at most. Several are read where a model writes them."""

    frame: CallFrame
    arguments_key: str

    def grammar(self, tools: Sequence[Tool], choice: ToolChoice, token_id: TokenId, answer: str | None) -> str:
        """Lark text. An answer that begins with a brace or the tag must be a call, unless `answer` allows it."""
        tag = f"{marker(self.frame.marker, token_id)}?" if choice.mode == "auto" else ""
        rules = [f"calls: {tag} ({call_rule(tools, choice, self.arguments_key)})"]
        if choice.mode == "required":
            return "\n".join(["start: calls", *rules]) + "\n"
        if answer is not None:
            return "\n".join(["start: calls | answer", f"answer: {answer}", *rules]) + "\n"
        begins = "[^{]" if token_id(self.frame.marker) is not None else "[^{<]"
        return "\n".join(["start: calls | TEXT | ", f"TEXT: /{begins}(?s:.*)/", *rules]) + "\n"


def _render(messages: list[Message], tools: Sequence[Tool]) -> Rendering:
    return Rendering(_one_call_each(messages), definitions(tools))


def _one_call_each(messages: list[Message]) -> list[Message]:
    """Answers with several calls become several answers, each with its own result: the template knows no more."""
    results = {message["tool_call_id"]: message for message in messages if message["role"] == "tool"}
    rendered: list[Message] = []
    moved: set[str] = set()
    for message in messages:
        calls = message.get("tool_calls", ())
        if len(calls) < 2:
            if message["role"] != "tool" or message["tool_call_id"] not in moved:
                rendered.append(message)
            continue
        for call in calls:
            rendered.append({"role": "assistant", "content": "", "tool_calls": [call]})
            if call["id"] in results:
                rendered.append(results[call["id"]])
                moved.add(call["id"])
    return rendered


LLAMA = ToolFormat(
    "llama",
    LlamaLayout(CallFrame("<|python_tag|>", separator=";", at_start=True), "parameters"),
    _render,
    parallel=False,
)
