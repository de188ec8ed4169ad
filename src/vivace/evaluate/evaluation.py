"""A whole evaluation: a text and tasks, for one model or for one beside its reference."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields
from functools import partial
from importlib.resources import files
from typing import Any

from vivace.core.config import EngineConfig
from vivace.engine.llm import LLM
from vivace.engine.source import locate
from vivace.evaluate.journal import Journal, Record
from vivace.evaluate.quality import Quality, measure_quality
from vivace.evaluate.tasks import PosedTask, TaskResult, run_task
from vivace.formats.checkpoint import open_checkpoint
from vivace.formats.fingerprint import checkpoint_fingerprint

StageProgress = Callable[[str, int, int], None]
TEXT_STAGE = "windows"


@dataclass(frozen=True, slots=True)
class Plan:
    """What is measured. Without a text tasks alone."""

    text: str | None
    tasks: tuple[PosedTask, ...] = ()
    window: int | None = None
    stride: int | None = None

    def identity(self) -> Record:
        """What the figures depend on, beside the models."""
        prompts = repr([(task.file.name, task.file.format, task.examples, task.items) for task in self.tasks])
        return {
            "text": None if self.text is None else hashlib.sha256(self.text.encode()).hexdigest(),
            "tasks": hashlib.sha256(prompts.encode()).hexdigest(),
            "window": self.window,
            "stride": self.stride,
        }


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """How a model ran. `weights` is the layout of its matrices in memory."""

    model: str
    weights: str
    weight_bytes: int
    kv_cache_dtype: str
    kv_bytes_per_token: int

    @staticmethod
    def of(name: str, llm: LLM) -> ModelFacts:
        loaded = llm.loaded
        return ModelFacts(
            model=name,
            weights=loaded.parameters.layers[0].q.layout,
            weight_bytes=loaded.weight_bytes,
            kv_cache_dtype=loaded.kv_spec.dtype,
            kv_bytes_per_token=loaded.kv_spec.bytes_per_token,
        )


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The result. `tasks` and `reference_tasks` are in the plan's order."""

    facts: ModelFacts
    reference_facts: ModelFacts | None
    quality: Quality | None
    tasks: list[TaskResult] = field(default_factory=list)
    reference_tasks: list[TaskResult] = field(default_factory=list)

    def record(self) -> dict[str, Any]:
        """One JSON object; what was not measured is null."""
        names = [
            one.name for one in fields(Quality) if one.name != "tokens" and not one.name.startswith("reference_")
        ]
        measured = {name: None if self.quality is None else getattr(self.quality, name) for name in names}
        return {
            **asdict(self.facts),
            **measured,
            "tasks": {result.name: result.record() for result in self.tasks},
            "reference": self._reference_record(),
        }

    def _reference_record(self) -> dict[str, Any] | None:
        if self.reference_facts is None:
            return None
        return {
            **asdict(self.reference_facts),
            "perplexity": None if self.quality is None else self.quality.reference_perplexity,
            "bits_per_byte": None if self.quality is None else self.quality.reference_bits_per_byte,
            "tasks": {result.name: result.record() for result in self.reference_tasks},
        }


def sample_text() -> str:
    """The text that is measured where none is given: written for this package (Apache-2.0), in no training data."""
    return files(__package__).joinpath("sample.txt").read_text(encoding="utf-8")


def model_identity(config: EngineConfig) -> Record:
    """What a model's figures depend on: its weights and how they run."""
    if config.load_format == "dummy":
        weights = f"dummy {config.config} {config.seed}"
    else:
        with open_checkpoint(locate(config.model).path) as checkpoint:
            weights = checkpoint_fingerprint(checkpoint)
    options = ("quantization", "kv_cache_dtype", "max_model_len", "backend", "tokenizer")
    return {"weights": weights, **{name: getattr(config, name) for name in options}}


def run_evaluation(
    llm: tuple[str, LLM],
    reference: tuple[str, LLM] | None,
    plan: Plan,
    *,
    progress: StageProgress | None = None,
    journal: Journal | None = None,
) -> Evaluation:
    """Measure the text, then every task with the model and with its reference. Models come with their names."""
    count = progress or (lambda *_: None)
    quality = None
    if plan.text is not None:
        quality = measure_quality(
            llm[1],
            reference and reference[1],
            plan.text,
            window=plan.window,
            stride=plan.stride,
            progress=partial(count, TEXT_STAGE),
            journal=journal,
        )
    own, others = [], []
    for task in plan.tasks:
        own.append(run_task(llm[1], task, progress=partial(count, task.file.name), journal=journal))
        if reference is not None:
            stage = f"{task.file.name}, reference"
            results = run_task(
                reference[1], task, progress=partial(count, stage), journal=journal, prefix="reference "
            )
            others.append(results)
    return Evaluation(ModelFacts.of(*llm), reference and ModelFacts.of(*reference), quality, own, others)
