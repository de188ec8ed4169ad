"""One line of a task's JSONL file as an item, for each format that data sets are published in.

Parsers raise `ConfigError` that names the field; who reads the file adds the line.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from vivace.core.errors import ConfigError
from vivace.evaluate.task_items import ChoiceItem, LastWordItem, NumberItem, TaskItem, flexible_number, question

Record = dict[str, Any]


def hellaswag(record: Record) -> TaskItem:
    """The data set's own fields, or `query`, `choices`, `gold`."""
    if "query" in record:
        return _choice(_text(record, "query"), _texts(record, "choices"), record.get("gold"), "gold")
    if "ctx_a" in record:
        context = f"{_text(record, 'ctx_a')} {_text(record, 'ctx_b', may_be_empty=True).capitalize()}"
    else:
        context = _text(record, "ctx")
    if label := record.get("activity_label"):
        context = f"{label}: {context}"
    endings = [without_marks(ending) for ending in _texts(record, "endings")]
    return _choice(without_marks(context), endings, record.get("label"), "label")


def without_marks(text: str) -> str:
    """HellaSwag's WikiHow parts carry marks like [title]: out, as lm-evaluation-harness does it."""
    text = text.strip().replace(" [title]", ". ")
    return re.sub(r"\[.*?\]", "", text).replace("  ", " ")


def arc(record: Record) -> TaskItem:
    """`question`, `choices`, `answerKey` of the data set (three spellings), or `query`, `choices`, `gold`."""
    if "query" in record:
        return _choice(question(_text(record, "query")), _texts(record, "choices"), record.get("gold"), "gold")
    asked, choices = record.get("question"), record.get("choices")
    if isinstance(asked, dict):
        choices, asked = asked.get("choices"), asked.get("stem")
    if not isinstance(asked, str) or not asked.strip():
        raise ConfigError("field 'question' must be a text")
    if isinstance(choices, dict):
        labels, texts = choices.get("label"), choices.get("text")
    elif isinstance(choices, list):
        pairs = [one for one in choices if isinstance(one, dict)]
        labels, texts = [one.get("label") for one in pairs], [one.get("text") for one in pairs]
    else:
        raise ConfigError("field 'choices' must hold labels and texts")
    key = record.get("answerKey")
    if not isinstance(labels, list) or key not in labels:
        raise ConfigError(f"field 'answerKey' ({key!r}) is not one of the labels")
    return _choice(question(asked), _texts({"choices": texts}, "choices"), labels.index(key), "answerKey")


def piqa(record: Record) -> TaskItem:
    """`goal`, `sol1`, `sol2`, `label`, or `query`, `choices`, `gold`."""
    if "query" in record:
        return arc(record)
    choices = [_text(record, "sol1"), _text(record, "sol2")]
    return _choice(question(_text(record, "goal")), choices, record.get("label"), "label")


def choices(record: Record) -> TaskItem:
    """`query`, `choices`, `gold`: what begins with "Question:" is a question, anything else is continued."""
    return arc(record) if _text(record, "query").startswith("Question:") else hellaswag(record)


def lambada(record: Record) -> TaskItem:
    """`text`, whose last word is asked for."""
    context, _, word = _text(record, "text").rpartition(" ")
    if not context.strip() or not word:
        raise ConfigError("field 'text' must have two words or more")
    return LastWordItem(context, word)


def gsm8k(record: Record) -> TaskItem:
    """`question`, `answer`; the number behind `####` counts, or else the answer's last one."""
    answer = _text(record, "answer")
    number = flexible_number(answer.rpartition("####")[2])
    if number is None:
        raise ConfigError("field 'answer' has no number")
    return NumberItem(question(_text(record, "question")), answer, number)


PARSERS: dict[str, Callable[[Record], TaskItem]] = {
    "hellaswag": hellaswag,
    "lambada": lambada,
    "arc": arc,
    "piqa": piqa,
    "gsm8k": gsm8k,
    "choices": choices,
}
_FORMATS = (
    ("choices", {"query", "choices", "gold"}),
    ("hellaswag", {"endings", "label"}),
    ("piqa", {"goal", "sol1", "sol2"}),
    ("arc", {"question", "answerKey"}),
    ("gsm8k", {"question", "answer"}),
    ("lambada", {"text"}),
)


def recognised(record: Record) -> str | None:
    """The format whose fields a record has."""
    return next((name for name, fields in _FORMATS if fields <= set(record)), None)


def _choice(context: str, texts: list[str], gold: Any, field: str) -> ChoiceItem:
    if isinstance(gold, str) and gold.strip().isdecimal():
        gold = int(gold)
    if isinstance(gold, bool) or not isinstance(gold, int) or not 0 <= gold < len(texts):
        raise ConfigError(f"field {field!r} must be a number from 0 to {len(texts) - 1}, not {gold!r}")
    return ChoiceItem(context, tuple(texts), gold)


def _text(record: Record, field: str, *, may_be_empty: bool = False) -> str:
    value = record.get(field)
    if not isinstance(value, str) or not (may_be_empty or value.strip()):
        raise ConfigError(f"field {field!r} must be a text that is not empty")
    return value


def _texts(record: Record, field: str) -> list[str]:
    values = record.get(field)
    if not isinstance(values, list) or len(values) < 2:
        raise ConfigError(f"field {field!r} must be a list of two texts or more")
    if not all(isinstance(value, str) and value.strip() for value in values):
        raise ConfigError(f"field {field!r} holds something else than texts, or an empty one")
    return values
