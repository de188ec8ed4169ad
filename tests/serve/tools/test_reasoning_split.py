"""Reasoning apart from content, however the text is cut."""

from __future__ import annotations

from itertools import count
from pathlib import Path

import pytest
from text_cuts import parsed_every_way

from vivace.serve.reasoning import ReasoningParser, defines_think_tags, opens_thinking
from vivace.serve.tools.call_parser import CallParser
from vivace.serve.tools.call_text import CallSyntax
from vivace.serve.tools.deltas import ContentParser, ReasoningDelta
from vivace.serve.tools.hermes import HERMES


@pytest.mark.parametrize(
    ("opened", "text", "reasoning", "content"),
    [
        (False, "<think>\nLet me see.\n\nYes.\n</think>\n\nThe answer.", "Let me see.\n\nYes.", "The answer."),
        (False, "<think></think>x", "", "x"),
        (False, "<think>\n\n</think>\n\nx ", "", "x "),
        (False, "No thought <think>here</think>", "", "No thought <think>here</think>"),
        (False, "\n <thin", "", "\n <thin"),
        (False, "", "", ""),
        (False, "<think>never closed  ", "never closed", ""),
        (False, "<think>a </thin> b</think> c </think>", "a </thin> b", "c </think>"),
        (True, "I see.\n</think>\n\nThe answer.", "I see.", "The answer."),
        (True, "<think>\nI see.</think>x", "I see.", "x"),
        (True, "\nonly reasoning\n", "only reasoning", ""),
        (True, "</think>x", "", "x"),
        (True, "", "", ""),
    ],
)
def test_split(opened: bool, text: str, reasoning: str, content: str) -> None:
    result = parsed_every_way(lambda: ReasoningParser(ContentParser(), opened=opened), text)
    assert result == (content, reasoning, [])


def test_calls_follow_the_reasoning() -> None:
    text = '<think>call <tool_call>?</think>\n\n<tool_call>\n{"name": "get", "arguments": {}}\n</tool_call>'

    def make() -> ReasoningParser:
        numbers = count()
        syntax = CallSyntax(frozenset({"get"}), "arguments")
        calls = CallParser(HERMES.layout.frame, syntax, lambda: str(next(numbers)), streams=True)
        return ReasoningParser(calls, opened=False)

    assert parsed_every_way(make, text) == ("", "call <tool_call>?", [("get", "{}")])


def test_reasoning_streams() -> None:
    parser = ReasoningParser(ContentParser(), opened=True)
    assert parser.push("one two ") == [ReasoningDelta("one two")]
    assert parser.push("three") == [ReasoningDelta(" three")]
    assert parser.push("</thi") == []


def test_templates_that_define_the_tags(shared: Path) -> None:
    folder = shared / "tokenizers" / "chat_templates"
    defining = {path.name.split("-")[0] for path in folder.iterdir() if defines_think_tags(path.read_text())}
    assert defining == {"HuggingFaceTB", "Qwen", "deepseek", "ibm"}
    assert opens_thinking("<｜Assistant｜><think>\n")
    assert not opens_thinking("<think>\n\n</think>\n\n")
