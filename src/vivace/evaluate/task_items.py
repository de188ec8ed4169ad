"""Questions of a task, and how they are put to a model: the prompts of lm-evaluation-harness."""

from __future__ import annotations

import re
from dataclasses import dataclass

DELIMITER = " "  # between a prompt and its answer
EXAMPLE_DELIMITER = "\n\n"
ANSWER_CUE = "\nAnswer:"


@dataclass(frozen=True, slots=True)
class ChoiceItem:
    """Which of `choices` continues `context`? `gold` is the index of the right one."""

    context: str
    choices: tuple[str, ...]
    gold: int

    @property
    def continuations(self) -> tuple[str, ...]:
        """What is scored behind the context."""
        return self.choices

    @property
    def example(self) -> str:
        """Question and answer, as a few-shot example shows them."""
        return self.context + DELIMITER + self.choices[self.gold]


@dataclass(frozen=True, slots=True)
class LastWordItem:
    """Is `word` what follows `context`?"""

    context: str
    word: str

    @property
    def continuations(self) -> tuple[str, ...]:
        return (self.word,)

    @property
    def example(self) -> str:
        return self.context + DELIMITER + self.word


@dataclass(frozen=True, slots=True)
class NumberItem:
    """A question whose answer ends in a number; `answer` is a whole worked one."""

    context: str
    answer: str
    number: str

    @property
    def example(self) -> str:
        return self.context + DELIMITER + self.answer


TaskItem = ChoiceItem | LastWordItem | NumberItem

_STRICT = re.compile(r"#### (-?[0-9.,]+)")
_FLEXIBLE = re.compile(r"(-?[$0-9.,]{2,})|(-?[0-9]+)")


def strict_number(text: str) -> str | None:
    """The first number behind `####`, as the examples end."""
    found = _STRICT.search(text)
    return None if found is None else plain_number(found[1])


def flexible_number(text: str) -> str | None:
    """The last number in the text, wherever it stands."""
    found = [first or second for first, second in _FLEXIBLE.findall(text)]
    return plain_number(found[-1]) if found else None


def plain_number(text: str) -> str:
    """Without thousands' commas, dollar signs and a full stop at the end."""
    return text.replace(",", "").replace("$", "").removesuffix(".").strip()


def question(text: str) -> str:
    """The prompt of ARC, PIQA and GSM8K."""
    text = text.strip()
    return (text if text.startswith("Question:") else f"Question: {text}") + ANSWER_CUE
