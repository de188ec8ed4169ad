"""Reasoning apart from the answer, for models whose chat template defines `<think>` tags."""

from __future__ import annotations

from enum import Enum

from vivace.serve.tools.deltas import OutputDelta, OutputParser, ReasoningDelta
from vivace.serve.tools.markers import num_undecided

THINK_START = "<think>"
THINK_END = "</think>"


def defines_think_tags(template: str) -> bool:
    """Whether a chat template speaks of both tags."""
    return THINK_START in template and THINK_END in template


def opens_thinking(prompt: str) -> bool:
    """Whether a rendered prompt ends inside think tags: what follows is reasoning from its first character."""
    return prompt.rstrip().endswith(THINK_START)


class _State(Enum):
    BEFORE = "before"  # nothing but white space so far
    INSIDE = "inside"
    BEHIND = "behind"  # the closing tag; white space after it belongs to nobody
    ANSWER = "answer"


class ReasoningParser:
    """Splits one continuation: what the tags enclose is reasoning, the rest goes to `answer`.

    `opened`: the prompt has opened the tags. White space at either end of the reasoning is dropped.
    Reasoning that is never closed stays reasoning.
    """

    def __init__(self, answer: OutputParser, *, opened: bool) -> None:
        self._answer = answer
        self._opened = opened
        self._state = _State.INSIDE if opened else _State.BEFORE
        self._text = ""  # not decided yet
        self._has_reasoning = False

    @property
    def num_tool_calls(self) -> int:
        return self._answer.num_tool_calls

    def push(self, text: str) -> list[OutputDelta]:
        if self._state is _State.ANSWER:
            return self._answer.push(text)
        self._text += text
        deltas: list[OutputDelta] = []
        if self._state is _State.BEFORE:
            deltas += self._read_before()
        if self._state is _State.INSIDE:
            deltas += self._read_inside()
        if self._state is _State.BEHIND:
            deltas += self._read_behind()
        return deltas

    def finish(self) -> list[OutputDelta]:
        held, self._text = self._text, ""
        deltas: list[OutputDelta] = []
        if self._state is _State.INSIDE:
            deltas += self._reasoning(held.rstrip() if self._has_reasoning else held.strip())
        elif self._state is _State.BEFORE:
            deltas += self._answer.push(held)
        return deltas + self._answer.finish()

    def _read_before(self) -> list[OutputDelta]:
        body = self._text.lstrip()
        if THINK_START.startswith(body):
            if body == THINK_START:
                self._text, self._state = "", _State.INSIDE
            return []
        if body.startswith(THINK_START):
            self._text, self._state = body[len(THINK_START) :], _State.INSIDE
            return []
        return self._begin_answer(self._text)

    def _read_inside(self) -> list[OutputDelta]:
        if not self._has_reasoning:
            self._text = self._text.lstrip()
            if self._opened and self._begins_with_start():  # opened by the prompt and once more by the model
                return []
        end = self._text.find(THINK_END)
        if end >= 0:
            reasoning, self._text = self._text[:end].rstrip(), self._text[end + len(THINK_END) :]
            self._state = _State.BEHIND
            return self._reasoning(reasoning)
        decided = len(self._text[: len(self._text) - num_undecided(self._text, THINK_END)].rstrip())
        reasoning, self._text = self._text[:decided], self._text[decided:]
        return self._reasoning(reasoning)

    def _begins_with_start(self) -> bool:
        """Drops a second opening tag. True while more text is needed to know."""
        if self._text.startswith(THINK_START):
            self._text = self._text[len(THINK_START) :].lstrip()
            self._opened = False
            return not self._text
        return THINK_START.startswith(self._text)

    def _read_behind(self) -> list[OutputDelta]:
        body = self._text.lstrip()
        return self._begin_answer(body) if body else []

    def _begin_answer(self, text: str) -> list[OutputDelta]:
        self._text, self._state = "", _State.ANSWER
        return self._answer.push(text)

    def _reasoning(self, text: str) -> list[OutputDelta]:
        self._has_reasoning = self._has_reasoning or bool(text)
        return [ReasoningDelta(text)] if text else []
