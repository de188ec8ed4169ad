"""`vivace optimize`: from model, workload, objectives and machine to a measured configuration with its reasons."""

from __future__ import annotations

import json
import os
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from vivace.cli.options import ENGINE, takes
from vivace.core.config import EngineConfig
from vivace.core.errors import ConfigError

if TYPE_CHECKING:
    from vivace.evaluate.tasks import PosedTask
    from vivace.optimize.answer import Answer
    from vivace.optimize.notebook import Memory
    from vivace.optimize.preparation import Inquiry, Prepared

SEARCHED = (
    "quantization", "kv_cache_dtype", "max_num_seqs", "max_num_batched_tokens", "block_size", "enable_prefix_caching",
    "enable_chunked_prefill", "batching", "static_batch_size", "static_batch_timeout_ms", "speculative_config",
    "kv_cache_memory_bytes", "num_kv_blocks", "backend",
)  # fmt: skip
MODEL = ENGINE.without(*SEARCHED)
EXIT_INTERRUPTED = 130
OWN_MARK = "# Written by vivace optimize"


@takes(config=MODEL)
def optimize(
    config: EngineConfig,
    workload: Annotated[
        str,
        typer.Option(help="What is asked: chat, rag, agent, long-prompt, ... (vivace bench serve), or trace:FILE."),
    ] = "chat",
    slo: Annotated[
        list[str] | None, typer.Option(help="What a request must keep: ttft:500,tpot:50,itl:...,e2el:... (ms).")
    ] = None,
    max_quality_loss: Annotated[
        list[str] | None, typer.Option(help="The most that may be lost: kl:0.02 (default), ppl:1%, task:1 (points).")
    ] = None,
    max_memory: Annotated[str | None, typer.Option(help="Of weights and KV pool together: 2GiB, 800M.")] = None,
    objective: Annotated[
        str | None, typer.Option(help="latency, throughput (default), goodput (default with --slo) or cost.")
    ] = None,
    request_rate: Annotated[
        float | None,
        typer.Option(help="Requests a second that will come, at random: the best latency, or goodput, at that load."),
    ] = None,
    time_budget: Annotated[str, typer.Option(help="How long to search: 90s, 10m, 1h.")] = "4m",
    dataset: Annotated[
        Path | None, typer.Option(help="Text that quality is judged by; default: a small text in the package.")
    ] = None,
    task: Annotated[
        list[str] | None, typer.Option(help="FILE or FORMAT:FILE, as of vivace evaluate; for the bar task:.")
    ] = None,
    limit: Annotated[int, typer.Option(help="Items of each task.", min=1)] = 100,
    draft: Annotated[
        str | None, typer.Option(help="A draft model for speculation; the embedded one has its own.")
    ] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="The configuration file.")] = Path("vivace.toml"),
    report: Annotated[Path | None, typer.Option(help="Write a report: FILE.html.")] = None,
    emit: Annotated[
        str | None, typer.Option(help="Print the equivalent flags of vllm, sglang, llama.cpp or tensorrt-llm.")
    ] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Measure again what earlier runs have measured.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Find the fastest configuration that keeps the quality, by measuring. Writes vivace.toml."""
    from vivace.optimize.emit import check_engine

    _check_files(output, report)
    if emit is not None:
        check_engine(emit)
    asked = _Asked(workload, slo or [], max_quality_loss or [], max_memory, objective, request_rate, time_budget)
    inquiry = _inquiry(config, asked, dataset, _tasks(task or [], limit, config.seed), draft)
    prepared, answer, is_whole = _searched(inquiry, fresh=fresh)
    _write(prepared, answer, output, report)
    _print(prepared, answer, output, report, emit, as_json=as_json)
    if not is_whole:
        print("interrupted: this is the best so far; the same command goes on from here", file=sys.stderr)
        raise typer.Exit(EXIT_INTERRUPTED)


class _Asked(NamedTuple):
    """What the search is told, as it was typed."""

    workload: str
    slo: list[str]
    max_quality_loss: list[str]
    max_memory: str | None
    objective: str | None
    request_rate: float | None
    time_budget: str


def _inquiry(
    config: EngineConfig, asked: _Asked, dataset: Path | None, tasks: tuple[PosedTask, ...], draft: str | None
) -> Inquiry:
    """Checked, before a model is read."""
    from vivace.bench.slo import SLO
    from vivace.formats.text_file import read_text
    from vivace.optimize.gate import QualityBar, parse_bytes
    from vivace.optimize.preparation import Inquiry
    from vivace.optimize.time_budget import parse_seconds

    inquiry = Inquiry(
        config=config,
        workload=asked.workload,
        slo=SLO.parse(asked.slo) if asked.slo else None,
        bar=QualityBar.parse(asked.max_quality_loss),
        max_memory_bytes=None if asked.max_memory is None else parse_bytes(asked.max_memory),
        objective=asked.objective,
        request_rate=asked.request_rate,
        seconds=parse_seconds(asked.time_budget),
        text=None if dataset is None else read_text(dataset),
        tasks=tasks,
        draft=draft,
    )
    inquiry.check()
    return inquiry


def _print(
    prepared: Prepared, answer: Answer, output: Path, report: Path | None, emit: str | None, *, as_json: bool
) -> None:
    from vivace.cli.optimize_table import print_answer
    from vivace.optimize.emit import equivalent

    if as_json:
        print(json.dumps(answer.record()))
    else:
        print_answer(answer, output, report)
    if emit is not None:
        config, num_bytes = prepared.engine_config(answer.pick.candidate), answer.pick.measured.kv_pool_bytes
        print(equivalent(emit, config, num_bytes, on_gpu=prepared.shelf.on_gpu))


def _searched(inquiry: Inquiry, *, fresh: bool) -> tuple[Prepared, Answer, bool]:
    """The answer, and whether the search came to its end."""
    from vivace.cli.optimize_progress import search_progress
    from vivace.optimize.preparation import prepare

    prepared = None
    with search_progress(inquiry.seconds) as progress:
        try:
            prepared = prepare(inquiry, _memory(fresh), progress.report, time.monotonic)
            progress.follow(prepared)
            answer, is_whole = prepared.optimization.run(), True
        except KeyboardInterrupt:
            answer, is_whole = _so_far(prepared), False
    assert prepared is not None
    return prepared, replace(answer, extra=prepared.facts), is_whole


def _so_far(prepared: Prepared | None) -> Answer:
    """What is known when somebody does not want to wait any longer."""
    try:
        if prepared is not None:
            return prepared.optimization.answer()
    except ConfigError:
        pass
    print("interrupted before anything could be said; what was measured is kept for the next run", file=sys.stderr)
    raise typer.Exit(EXIT_INTERRUPTED)


def _memory(fresh: bool) -> Memory:
    """The results' file; a memory for this run alone where it cannot be written."""
    from vivace.bench.store.location import default_store_path
    from vivace.bench.store.result_store import ResultStore
    from vivace.optimize.notebook import Forgetful, Oblivious

    try:
        store = ResultStore(default_store_path())
        return Oblivious(store) if fresh else store
    except ConfigError as error:
        print(f"vivace: {error}; this run cannot be resumed", file=sys.stderr)
        return Forgetful()


def _write(prepared: Prepared, answer: Answer, output: Path, report: Path | None) -> None:
    from vivace.formats.text_file import write_text
    from vivace.optimize.report import report_html
    from vivace.optimize.written import configuration_text

    text = configuration_text(answer, prepared.engine_config(answer.pick.candidate))
    write_text(output, text)
    if report is not None:
        write_text(report, report_html(answer, text))


def _check_files(output: Path, report: Path | None) -> None:
    """Before minutes are spent: can everything be written."""
    for path in (output, report):
        if path is not None and not path.parent.is_dir():
            raise ConfigError(f"cannot write {path}: there is no folder {path.parent}")
        if path is not None and not os.access(path.parent, os.W_OK):
            raise ConfigError(f"cannot write {path}: the folder cannot be written to")
    if output.suffix != ".toml":
        raise ConfigError(f"the configuration is a file ending in .toml, not {output.name}")
    if report is not None and report.suffix != ".html":
        raise ConfigError(f"a report is a file ending in .html, not {report.name}")
    if output.exists() and not _is_ours(output):
        raise ConfigError(f"{output} was not written by vivace optimize: name another file with --output")


def _is_ours(path: Path) -> bool:
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            return file.readline().startswith(OWN_MARK)
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror}") from None


def _tasks(sources: list[str], limit: int, seed: int) -> tuple[PosedTask, ...]:
    from vivace.evaluate.task_files import read_task
    from vivace.evaluate.tasks import pose

    return tuple(pose(read_task(source), limit, 0, seed) for source in sources)
