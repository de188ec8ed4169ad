"""Tasks run: accuracies as lm-evaluation-harness defines them, with standard errors."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence as Items
from dataclasses import dataclass
from itertools import islice
from typing import Any

from vivace.core.errors import ConfigError
from vivace.core.sampling import SamplingParams
from vivace.engine.llm import LLM
from vivace.evaluate.continuations import score_continuations, tokenize_continuation
from vivace.evaluate.journal import Journal, Record
from vivace.evaluate.perplexity import Progress
from vivace.evaluate.task_files import TaskFile
from vivace.evaluate.task_items import (
    DELIMITER,
    EXAMPLE_DELIMITER,
    ChoiceItem,
    NumberItem,
    TaskItem,
    flexible_number,
    strict_number,
)

ITEMS_AT_ONCE = 32  # enough prompts to fill every step, few enough to lose little when cut off
MAX_ANSWER_TOKENS = 256
STOP = ("Question:", "</s>", "<|im_end|>")


@dataclass(frozen=True, slots=True)
class Metric:
    """A mean over items and its standard error (sample deviation / sqrt(n)); None for a single item."""

    value: float
    stderr: float | None


@dataclass(frozen=True, slots=True)
class TaskResult:
    """`metrics` by name. Of choices: `acc` (the likeliest choice is the right one), `acc_norm` (log probability
    divided by the choice's length in characters); of last words: `acc` (greedy decoding gives it), `perplexity`;
    of numbers: `exact_match` (last number of the answer), `exact_match_strict` (the one behind ####).
    """

    name: str
    format: str
    num_items: int
    num_fewshot: int
    metrics: dict[str, Metric]

    def record(self) -> dict[str, Any]:
        """One flat object: `acc`, `acc_stderr`, ..."""
        figures: dict[str, Any] = {
            "format": self.format,
            "num_items": self.num_items,
            "num_fewshot": self.num_fewshot,
        }
        for name, metric in self.metrics.items():
            figures |= {name: metric.value, f"{name}_stderr": metric.stderr}
        return figures


@dataclass(frozen=True, slots=True)
class PosedTask:
    """The items that are scored, and the text of examples that comes before each of them."""

    file: TaskFile
    items: list[TaskItem]
    examples: str
    num_fewshot: int


def pose(file: TaskFile, limit: int | None, num_fewshot: int, seed: int) -> PosedTask:
    """The first `limit` items, behind `num_fewshot` examples that the seed draws and that are not scored themselves.

    Raises `ConfigError` where the examples leave no item.
    """
    drawn = set(random.Random(seed).sample(range(len(file.items)), min(num_fewshot, len(file.items))))
    items = [item for index, item in enumerate(file.items) if index not in drawn][:limit]
    if not items:
        raise ConfigError(f"{file.name} has {len(file.items)} items: {num_fewshot} examples leave none to score")
    examples = "".join(file.items[index].example + EXAMPLE_DELIMITER for index in sorted(drawn))
    return PosedTask(file, items, examples, num_fewshot)


def run_task(
    llm: LLM, task: PosedTask, *, progress: Progress | None = None, journal: Journal | None = None, prefix: str = ""
) -> TaskResult:
    """Put every item to the model. `journal` keeps what is finished, under names that begin with `prefix`."""
    journal = journal or Journal.nowhere()
    keys = [f"{prefix}{task.file.name} {index}" for index in range(len(task.items))]
    records = {key: record for key in keys if (record := journal.get(key)) is not None}
    missing = [index for index, key in enumerate(keys) if key not in records]
    for first in range(0, len(missing), ITEMS_AT_ONCE):
        group = missing[first : first + ITEMS_AT_ONCE]
        found = _answers(llm, [task.items[index] for index in group], task.examples)
        for index, record in zip(group, found, strict=True):
            records[keys[index]] = record
            journal.put(keys[index], record)
        if progress is not None:
            progress(len(records), len(keys))
    metrics = _metrics(task.items, [records[key] for key in keys])
    return TaskResult(task.file.name, task.file.format, len(task.items), task.num_fewshot, metrics)


def _answers(llm: LLM, items: list[TaskItem], examples: str) -> list[Record]:
    """A task's items are of one kind: their continuations are scored, or their answers written."""
    scored = [item for item in items if not isinstance(item, NumberItem)]
    if not scored:
        return _written(llm, [examples + item.context for item in items])
    tokenized = [
        tokenize_continuation(llm.tokenizer, examples + item.context, DELIMITER + text)
        for item in scored
        for text in item.continuations
    ]
    scores = iter(score_continuations(llm, tokenized))
    own = [list(islice(scores, len(item.continuations))) for item in scored]
    return [{"logprobs": [one.logprob for one in of], "greedy": [one.is_greedy for one in of]} for of in own]


def _written(llm: LLM, prompts: list[str]) -> list[Record]:
    """Greedy answers; a prompt that leaves no room for one loses its beginning."""
    limit = llm.engine.config.max_model_len
    room = min(MAX_ANSWER_TOKENS, limit // 2)
    params = SamplingParams(max_tokens=room, temperature=0.0, stop=STOP)
    outputs = llm.generate([llm.tokenizer.encode(prompt)[-(limit - room) :] for prompt in prompts], params)
    return [{"text": output.outputs[0].text} for output in outputs]


def _metrics(items: list[TaskItem], records: list[Record]) -> dict[str, Metric]:
    pairs = list(zip(items, records, strict=True))
    choices = [(item, record) for item, record in pairs if isinstance(item, ChoiceItem)]
    if choices:
        return {
            "acc": _mean([_likeliest(record["logprobs"]) == item.gold for item, record in choices]),
            "acc_norm": _mean([_likeliest(_normalised(item, record)) == item.gold for item, record in choices]),
        }
    numbers = [(item, record["text"]) for item, record in pairs if isinstance(item, NumberItem)]
    if numbers:
        return {
            "exact_match": _mean([flexible_number(text) == item.number for item, text in numbers]),
            "exact_match_strict": _mean([strict_number(text) == item.number for item, text in numbers]),
        }
    log_mean = _mean([record["logprobs"][0] for record in records])
    perplexity = math.exp(-log_mean.value)
    stderr = None if log_mean.stderr is None else perplexity * log_mean.stderr  # to first order
    return {"acc": _mean([record["greedy"][0] for record in records]), "perplexity": Metric(perplexity, stderr)}


def _normalised(item: ChoiceItem, record: Record) -> list[float]:
    return [logprob / len(text) for logprob, text in zip(record["logprobs"], item.choices, strict=True)]


def _likeliest(values: list[float]) -> int:
    return max(range(len(values)), key=values.__getitem__)


def _mean(values: Items[float]) -> Metric:
    count, mean = len(values), math.fsum(values) / len(values)
    if count < 2:
        return Metric(mean, None)
    variance = math.fsum((value - mean) ** 2 for value in values) / (count - 1)
    return Metric(mean, math.sqrt(variance / count))
