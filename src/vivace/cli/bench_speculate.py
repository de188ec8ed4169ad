"""`vivace bench speculate`."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vivace.cli.options import ENGINE, takes
from vivace.cli.session import open_llm
from vivace.core.config import EngineConfig
from vivace.core.errors import ConfigError
from vivace.core.sampling import SamplingParams
from vivace.core.speculation import MAX_SPECULATIVE_TOKENS, SpeculativeConfig

if TYPE_CHECKING:
    from vivace.bench.speculation import Comparison, Method, SpeculationBench, StepCosts

DEFAULT_BATCHES = (1, 2, 4, 8, 16)
DEFAULT_PROMPT_LEN = 128
SYNTHETIC_FOR_DUMMY = (0.5, 0.7, 0.9)


@takes(config=ENGINE)
def bench_speculate(
    config: EngineConfig,
    draft: Annotated[str | None, typer.Option(help="A small model of the same vocabulary to guess with.")] = None,
    heads: Annotated[str | None, typer.Option(help="A folder of Medusa heads to guess with.")] = None,
    prompts: Annotated[
        Path | None, typer.Option(help="Your prompts: JSONL, or text with a prompt a paragraph; default: built in.")
    ] = None,
    batch_size: Annotated[
        list[int] | None, typer.Option(help="Streams at once; may be repeated. Default: 1 2 4 8 16.", min=1)
    ] = None,
    prompt_len: Annotated[
        list[int] | None, typer.Option(help="Tokens of a prompt, at most; may be repeated. Default: 128.", min=1)
    ] = None,
    output_len: Annotated[int, typer.Option(help="Tokens of each answer (end tokens are ignored).", min=8)] = 64,
    num_speculative_tokens: Annotated[
        int, typer.Option(help="Guesses for a sequence in a step, at most.", min=1, max=MAX_SPECULATIVE_TOKENS)
    ] = 5,
    temperature: Annotated[float, typer.Option(help="0: the likeliest token.", min=0.0)] = 0.0,
    synthetic: Annotated[
        list[float] | None,
        typer.Option(help="Also guesses that are made to stand with this chance; may be repeated.", min=0.0, max=1.0),
    ] = None,
    rounds: Annotated[int, typer.Option(help="Measured runs of each, in turn.", min=1)] = 3,
    chart: Annotated[Path | None, typer.Option(help="Write a page with charts: FILE.html.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """What guessing tokens brings here: acceptance, break-even, speed-up against batch size, for each method."""
    if chart is not None and chart.suffix != ".html":
        raise ConfigError(f"--chart writes a page: name it FILE.html, not {chart.name}")
    if chart is not None and not chart.absolute().parent.is_dir():
        raise ConfigError(f"cannot write {chart}: there is no folder {chart.parent}")
    lengths = prompt_len or [DEFAULT_PROMPT_LEN]
    sizes = [(batch, length) for length in lengths for batch in batch_size or DEFAULT_BATCHES]
    methods = _methods(config, draft, heads, num_speculative_tokens, synthetic)
    params = SamplingParams(max_tokens=output_len, temperature=temperature, seed=config.seed, ignore_eos=True)
    bench = _bench(_sized(config, sizes, output_len, num_speculative_tokens), prompts, params, rounds)
    comparisons, costs = _measured(bench, methods, sizes, num_speculative_tokens)
    _show(config, comparisons, costs, chart, as_json=as_json)


def _methods(
    config: EngineConfig, draft: str | None, heads: str | None, most: int, synthetic: list[float] | None
) -> list[Method]:
    """Those that were named, and those that need no file; the embedded model brings its own draft and heads."""
    from vivace.bench.speculation import Method

    if config.speculative_config is not None:
        raise ConfigError("leave --speculative-config: --draft, --heads and --num-speculative-tokens say what to try")
    is_embedded = config.model is None and config.load_format != "dummy"
    wanted = [Method("n-gram", SpeculativeConfig("ngram", num_speculative_tokens=most))]
    model = draft or ("embedded-draft" if is_embedded else None)
    if model is not None:
        wanted.append(Method("draft model", SpeculativeConfig("draft_model", model, most)))
    if heads is not None or is_embedded:
        wanted.append(Method("Medusa", SpeculativeConfig("medusa", heads, most)))
    rates = synthetic or (list(SYNTHETIC_FOR_DUMMY) if config.load_format == "dummy" else [])
    config_of_rates = SpeculativeConfig("ngram", num_speculative_tokens=most)
    return [*wanted, *(Method(f"synthetic {rate:g}", config_of_rates, rate) for rate in rates)]


def _sized(config: EngineConfig, sizes: list[tuple[int, int]], output_len: int, most: int) -> EngineConfig:
    """Room for the largest size, and for every guess of it in one step."""
    most_seqs, longest = max(batch for batch, _ in sizes), max(length for _, length in sizes)
    needed = longest + output_len
    if config.max_model_len is not None and config.max_model_len < needed:
        raise ConfigError(f"the workload needs {needed} tokens, --max-model-len allows {config.max_model_len}")
    return replace(
        config,
        max_model_len=config.max_model_len or needed,
        max_num_seqs=most_seqs,
        max_num_batched_tokens=config.max_num_batched_tokens or max(512, most_seqs * (1 + most)),
    )


def _bench(config: EngineConfig, path: Path | None, params: SamplingParams, rounds: int) -> SpeculationBench:
    from vivace.bench.speculation_prompts import Prompts, read_prompts

    texts = read_prompts(path) if path is not None else None
    llm = open_llm(config)
    from vivace.bench.speculation import SpeculationBench

    tokenizer = llm.loaded.tokenizer
    prompts = Prompts(tokenizer.encode if tokenizer else None, llm.loaded.spec.vocab_size, config.seed, texts)
    return SpeculationBench(llm.loaded, config, prompts, params, rounds=rounds, clock=time.perf_counter)


def _measured(
    bench: SpeculationBench, methods: list[Method], sizes: list[tuple[int, int]], most: int
) -> tuple[list[Comparison], list[StepCosts]]:
    """Everything; what is there so far where the user interrupts, if anything is."""
    from vivace.cli.stages import stage_bars

    comparisons: list[Comparison] = []
    costs: list[StepCosts] = []
    try:
        with stage_bars() as report:
            for number, cost in enumerate(bench.step_costs(most, sizes), 1):
                costs.append(cost)
                _count(report, "steps", number, len(sizes))
            for method in methods:
                for number, comparison in enumerate(bench.compare(method, sizes), 1):
                    comparisons.append(comparison)
                    _count(report, method.name, number, len(sizes))
    except KeyboardInterrupt:
        if not comparisons:
            raise
    return comparisons, costs


def _count(report: Callable[[str, int, int], None] | None, stage: str, done: int, total: int) -> None:
    if report is not None:
        report(stage, done, total)


def _show(
    config: EngineConfig,
    comparisons: list[Comparison],
    costs: list[StepCosts],
    chart: Path | None,
    *,
    as_json: bool,
) -> None:
    from vivace.bench.speculation_report import MEANING, break_even_lines, comparison_lines, speculation_page
    from vivace.formats.text_file import write_text

    name = config.model or config.config or "embedded"
    if chart is not None:
        write_text(chart, speculation_page(f"Speculation on {name}", comparisons, costs))
    if as_json:
        records = [one.record() for one in comparisons]
        print(json.dumps({"model": name, "results": records, "step_costs": [asdict(one) for one in costs]}))
        return
    print(*comparison_lines(comparisons), MEANING, "", *break_even_lines(costs, comparisons), sep="\n", flush=True)
