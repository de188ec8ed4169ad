"""Parsers of calls: every format, every cut, streamed and whole, right and malformed."""

from __future__ import annotations

import json
import random
from itertools import count

import pytest
from text_cuts import Parsed, parsed_every_way

from vivace.serve.tools.call_parser import CallParser
from vivace.serve.tools.call_text import CallSyntax
from vivace.serve.tools.deltas import ContentDelta, ToolCallArguments, ToolCallStart
from vivace.serve.tools.format import ToolFormat
from vivace.serve.tools.hermes import HERMES
from vivace.serve.tools.llama import LLAMA
from vivace.serve.tools.mistral import MISTRAL

CALL = '{"name": "get", "arguments": {"a": "}</tool_call>", "b": [1, {"c": "\\""}]}}'
ARGUMENTS = '{"a": "}</tool_call>", "b": [1, {"c": "\\""}]}'
PUT = '{"name": "put", "arguments": {}}'
L_CALL, L_PUT = CALL.replace("arguments", "parameters"), PUT.replace("arguments", "parameters")
BOTH = [("get", ARGUMENTS), ("put", "{}")]


def parser(style: ToolFormat, *, streams: bool) -> CallParser:
    numbers = count()
    syntax = CallSyntax(frozenset({"get", "put"}), style.layout.arguments_key)
    return CallParser(style.layout.frame, syntax, lambda: f"id{next(numbers)}", streams=streams)


def result(style: ToolFormat, text: str) -> Parsed:
    whole = parsed_every_way(lambda: parser(style, streams=False), text)
    streamed = parsed_every_way(lambda: parser(style, streams=True), text)
    assert whole == streamed
    return whole


def unenforced(style: ToolFormat, text: str) -> Parsed:
    return parsed_every_way(lambda: parser(style, streams=False), text)


@pytest.mark.parametrize(
    ("style", "text", "content", "calls"),
    [
        (HERMES, "plain text < <tool text", "plain text < <tool text", []),
        (HERMES, "", "", []),
        (HERMES, "  \n", "  \n", []),
        (HERMES, f"<tool_call>\n{CALL}\n</tool_call>", "", BOTH[:1]),
        (HERMES, f"Let me see.\n\n<tool_call>{CALL}</tool_call>\n", "Let me see.", BOTH[:1]),
        (HERMES, f"<tool_call>\n{CALL}\n</tool_call>\n<tool_call>\n{PUT}\n</tool_call>", "", BOTH),
        (HERMES, f"<tool_call>{PUT}</tool_call> done.", " done.", BOTH[1:]),
        (HERMES, f"<tool_call>{PUT}", "", BOTH[1:]),
        (HERMES, f"<tool_call>{PUT} and more", " and more", BOTH[1:]),
        (MISTRAL, f"[TOOL_CALLS][{CALL}]", "", BOTH[:1]),
        (MISTRAL, f"Well [TOOL_CALLS] [{CALL}, {PUT}] ", "Well", BOTH),
        (MISTRAL, f'[TOOL_CALLS][{PUT[:-1]}, "id": "a}}b"}}, {CALL}]', "", BOTH[::-1]),
        (MISTRAL, "[TOOL_CALL]", "[TOOL_CALL]", []),
        (LLAMA, L_CALL, "", BOTH[:1]),
        (LLAMA, f"<|python_tag|>{L_CALL}", "", BOTH[:1]),
        (LLAMA, f" \n{L_CALL}; {L_PUT}", "", BOTH),
        (LLAMA, f"Here: {L_CALL}", f"Here: {L_CALL}", []),
        (LLAMA, "<|python", "<|python", []),
    ],
)
def test_calls_and_content(style: ToolFormat, text: str, content: str, calls: list[tuple[str, str]]) -> None:
    assert result(style, text) == (content, "", calls)


@pytest.mark.parametrize(
    ("style", "text"),
    [
        (HERMES, "<tool_call>\nnot json</tool_call>"),
        (HERMES, '<tool_call>{"name": "unknown", "arguments": {}}</tool_call>'),
        (HERMES, '<tool_call>{"name": "get", "arguments": [1]}</tool_call>'),
        (HERMES, '<tool_call>{"name": 3}</tool_call> rest'),
        (HERMES, '<tool_call>{"name" "get"}</tool_call>'),
        (HERMES, "a <tool_call><tool_call>"),
        (HERMES, "  <tool_call> \n  "),
        (HERMES, "<tool_call>" * 50),
        (MISTRAL, "[TOOL_CALLS]{}"),
        (MISTRAL, "[TOOL_CALLS][]"),
        (MISTRAL, '[TOOL_CALLS][{"a": 1}]'),
        (LLAMA, '{"answer": 42} and text'),
        (LLAMA, "{ unfinished"),
        (LLAMA, '<|python_tag|>brave_search.call(query="x")'),
    ],
)
def test_malformed_calls_are_content(style: ToolFormat, text: str) -> None:
    assert unenforced(style, text) == (text, "", [])


def test_malformed_before_a_right_one() -> None:
    text = f"<tool_call>oops</tool_call>\n<tool_call>{PUT}</tool_call>"
    assert result(HERMES, text) == ("<tool_call>oops</tool_call>", "", BOTH[1:])


def test_whole_calls_may_have_their_keys_in_any_order() -> None:
    text = '<tool_call>{"arguments": {"é": 1}, "name": "get"}</tool_call>'
    assert result(HERMES, text) == ("", "", [("get", '{"é": 1}')])


def test_a_call_that_is_cut_short() -> None:
    text = '<tool_call>\n{"name": "get", "arguments": {"a": "b'
    whole = parsed_every_way(lambda: parser(HERMES, streams=False), text)
    assert whole == (text, "", [])
    streamed = parsed_every_way(lambda: parser(HERMES, streams=True), text)
    assert streamed == ("", "", [("get", '{"a": "b')])
    for size in range(len("<tool_call>"), text.index('{"a"')):  # before the arguments: there is no call to show yet
        assert parsed_every_way(lambda: parser(HERMES, streams=True), text[:size]) == ("", "", [])


def test_streamed_arguments_come_as_they_are_written() -> None:
    reader = parser(HERMES, streams=True)
    assert reader.push("So: <tool_") == [ContentDelta("So:")]
    assert reader.push('call>\n{"name": "get", "argu') == []
    assert reader.push('ments": {"a') == [ToolCallStart(0, "id0", "get"), ToolCallArguments(0, '{"a')]
    assert reader.push('": 1') == [ToolCallArguments(0, '": 1')]
    assert reader.push("}}\n</tool_call>") == [ToolCallArguments(0, "}")]
    assert reader.finish() == []


def test_content_is_not_held_back_longer_than_a_marker() -> None:
    reader = parser(HERMES, streams=True)
    assert reader.push("a < b") == [ContentDelta("a < b")]
    assert reader.push(" <tool_calm") == [ContentDelta(" <tool_calm")]


@pytest.mark.parametrize("seed", range(15))
def test_random_texts_are_parsed_alike_however_cut(seed: int) -> None:
    """Fragments of markers and calls in any order: nothing is lost, nothing is given twice."""
    generator = random.Random(seed)
    style = [HERMES, MISTRAL, LLAMA][seed % 3]
    frame = style.layout.frame
    key = style.layout.arguments_key
    call = json.dumps({"name": "get", key: {"n": generator.randint(0, 9)}})
    parts = [
        frame.marker,
        frame.closing,
        frame.marker[:4],
        call,
        call[:-4],
        "[",
        "]",
        ", ",
        "; ",
        "\n",
        "text ",
        "{",
        "}",
    ]
    text = "".join(generator.choices(parts, k=10))
    for streams in (False, True):
        content, _, calls = parsed_every_way(lambda streams=streams: parser(style, streams=streams), text)
        assert all(json.loads(arguments).keys() == {"n"} for _, arguments in calls if not streams)
        for word in ("text ", call if not calls else "text "):
            assert content.count(word.strip()) <= text.count(word.strip())
        if not calls and not streams:
            assert content == text


def test_long_hostile_text_takes_linear_time() -> None:
    """20,000 pieces of each: finished in a moment, or the test's own time-out speaks."""
    for piece in ("<tool_call>", "<tool_call>{", " ", "{", "<", '<tool_call>{"name": "get", '):
        reader = parser(HERMES, streams=True)
        for _ in range(20_000):
            reader.push(piece)
        reader.finish()
