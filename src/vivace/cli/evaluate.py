"""`vivace evaluate`: what a model's answers are worth, alone or beside a reference."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vivace.cli.options import ENGINE, takes
from vivace.cli.session import open_llm
from vivace.core.config import CHOICES, EngineConfig
from vivace.core.errors import ConfigError

if TYPE_CHECKING:
    from vivace.evaluate.evaluation import Evaluation, Plan
    from vivace.evaluate.journal import Journal

POOL_SHARE = 0.15  # of a GPU's free memory, for the KV cache of each of two models
DEFAULT_REFERENCE = "default"
CHARTS = (".svg", ".html")


def _one_of(name: str) -> str:
    return ", ".join(CHOICES[name])


@takes(config=ENGINE)
def evaluate(
    config: EngineConfig,
    dataset: Annotated[
        Path | None, typer.Option(help="A text file in UTF-8; default: a small text in the package.")
    ] = None,
    task: Annotated[
        list[str] | None,
        typer.Option(help="FILE or FORMAT:FILE (hellaswag, lambada, arc, piqa, gsm8k, choices); may be repeated."),
    ] = None,
    limit: Annotated[int | None, typer.Option(help="Items of each task; default: all.", min=1)] = None,
    num_fewshot: Annotated[int, typer.Option(help="Examples before each item, drawn from its file.", min=0)] = 0,
    reference: Annotated[
        str | None, typer.Option(help="Model to compare with token by token; default: the embedded one.")
    ] = None,
    reference_quantization: Annotated[
        str, typer.Option(help=f"The reference's weights: {_one_of('quantization')} (as stored).")
    ] = "auto",
    reference_kv_cache_dtype: Annotated[
        str, typer.Option(help=f"The reference's cache: {_one_of('kv_cache_dtype')} (f32 or bf16, as its weights).")
    ] = "auto",
    window: Annotated[
        int | None, typer.Option(help="Tokens in a window; default: the context, 2048 at most.")
    ] = None,
    stride: Annotated[int | None, typer.Option(help="Tokens between windows; default: half a window.")] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write the JSON object here; an unfinished run goes on.")
    ] = None,
    chart: Annotated[Path | None, typer.Option(help="Draw a chart: FILE.svg or FILE.html.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Measure a model's quality: perplexity, distance from a reference, tasks."""
    _check_files(output, chart)
    plan = _plan(config, dataset, task or [], limit, num_fewshot, window, stride, has_reference=reference is not None)
    other = None
    if reference is not None:
        other = _reference_config(config, reference, reference_quantization, reference_kv_cache_dtype)
    with _journal(output, config, other, plan) as journal:
        evaluation = _evaluated(config, other, plan, journal)
        source = None if plan.text is None else str(dataset or "built-in sample")
        record = {**evaluation.record(), "dataset": source, "quantization": config.quantization, "seed": config.seed}
        _write(output, json.dumps(record, indent=1) + "\n")
        _write(chart, None if chart is None else _drawn(evaluation, chart))
        journal.finish()
    if as_json:
        print(json.dumps(record))
        return
    from vivace.cli.evaluation_table import print_evaluation

    print_evaluation(evaluation, source)


def _plan(
    config: EngineConfig,
    dataset: Path | None,
    sources: list[str],
    limit: int | None,
    num_fewshot: int,
    window: int | None,
    stride: int | None,
    *,
    has_reference: bool,
) -> Plan:
    """Read every file before a model is loaded."""
    from vivace.evaluate.evaluation import Plan, sample_text
    from vivace.evaluate.task_files import read_task
    from vivace.evaluate.tasks import pose
    from vivace.formats.text_file import read_text

    if not sources and (limit is not None or num_fewshot):
        option = "--limit" if limit is not None else "--num-fewshot"
        raise ConfigError(f"{option} is of tasks: name one with --task FILE; a text is scored whole")
    tasks = tuple(pose(read_task(source), limit, num_fewshot, config.seed) for source in sources)
    names = [one.file.name for one in tasks]
    if len(set(names)) < len(names):
        raise ConfigError(f"two tasks have one name ({', '.join(names)}): rename a file")
    text = read_text(dataset) if dataset is not None else None
    if text is None and (has_reference or not tasks):
        text = sample_text()
    return Plan(text, tasks, window, stride)


def _reference_config(config: EngineConfig, model: str, quantization: str, kv_cache_dtype: str) -> EngineConfig:
    """The same options but for weights and cache; a tokenizer of its own where it is another model."""
    name = None if model == DEFAULT_REFERENCE else model
    return replace(
        config,
        model=name,
        tokenizer=config.tokenizer if name == config.model else None,
        load_format="auto",
        config=None,
        quantization=quantization,  # type: ignore[arg-type]
        kv_cache_dtype=kv_cache_dtype,  # type: ignore[arg-type]
    )


@contextmanager
def _journal(output: Path | None, config: EngineConfig, other: EngineConfig | None, plan: Plan) -> Iterator[Journal]:
    """Beside the output; kept when the evaluation is cut off."""
    from vivace.evaluate.evaluation import model_identity
    from vivace.evaluate.journal import Journal

    if output is None:
        yield Journal.nowhere()
        return
    identity = {"model": model_identity(config), "reference": other and model_identity(other), **plan.identity()}
    with Journal(output.with_name(f"{output.name}.journal"), identity) as journal:
        yield journal


def _evaluated(config: EngineConfig, other: EngineConfig | None, plan: Plan, journal: Journal) -> Evaluation:
    from vivace.cli.stages import stage_bars
    from vivace.evaluate.evaluation import run_evaluation

    config, other = _bounded(config, is_alone=other is None), other and _bounded(other, is_alone=False)
    llm = (_name(config), open_llm(config))
    reference = None if other is None else (_name(other), open_llm(other))
    with stage_bars() as progress:
        return run_evaluation(llm, reference, plan, progress=progress, journal=journal)


def _bounded(config: EngineConfig, *, is_alone: bool) -> EngineConfig:
    """On a GPU: a pool that leaves room for the other model, and steps whose rows of logits, a gigabyte at 2,048 rows
    of 128,000 tokens, nobody set memory aside for."""
    from vivace.core.step_size import CPU_TOKENS_A_STEP
    from vivace.engine.backend import free_memory_bytes, gpu_backend

    if gpu_backend(config) is None:
        return config
    if config.max_num_batched_tokens is None and config.enable_chunked_prefill:
        config = replace(config, max_num_batched_tokens=max(CPU_TOKENS_A_STEP, config.max_num_seqs))
    if is_alone or config.num_kv_blocks is not None or config.kv_cache_memory_bytes is not None:
        return config
    return replace(config, kv_cache_memory_bytes=int(POOL_SHARE * free_memory_bytes(config)))


def _name(config: EngineConfig) -> str:
    return config.model or config.config or "embedded"


def _check_files(output: Path | None, chart: Path | None) -> None:
    if chart is not None and chart.suffix not in CHARTS:
        raise ConfigError(f"a chart is a file ending in {' or '.join(CHARTS)}, not {chart.name}")
    for path in (output, chart):
        if path is not None and not path.parent.is_dir():
            raise ConfigError(f"cannot write {path}: there is no folder {path.parent}")


def _drawn(evaluation: Evaluation, chart: Path) -> str:
    from vivace.evaluate.chart import chart_html, chart_svg

    return chart_svg(evaluation) if chart.suffix == ".svg" else chart_html(evaluation)


def _write(path: Path | None, content: str | None) -> None:
    from vivace.formats.text_file import write_text

    if path is not None and content is not None:
        write_text(path, content)
