"""`vivace train-medusa`: heads that guess several tokens ahead, for any model that the engine runs."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vivace.cli.options import ENGINE, takes
from vivace.cli.session import open_llm
from vivace.core.config import EngineConfig
from vivace.core.errors import ConfigError

if TYPE_CHECKING:
    from vivace.medusa.training import MedusaReport, Progress

TOP = (1, 2, 3, 5, 10)
STAGES = {"examples": "sequences made", "steps": "steps trained"}
MODEL_OPTIONS = ENGINE.without(
    "load_format", "config", "batching", "static_batch_size", "static_batch_timeout_ms", "enable_prefix_caching"
)


@takes(config=MODEL_OPTIONS)
def train_medusa(
    config: EngineConfig,
    data: Annotated[list[Path], typer.Option(help="A text file in UTF-8; may be repeated.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the heads; an unfinished run goes on.")],
    num_heads: Annotated[int, typer.Option(help="Heads: tokens guessed ahead of the model's own.")] = 4,
    num_sequences: Annotated[int, typer.Option(help="Sequences to learn from; a tenth is kept to measure on.")] = 256,
    sequence_len: Annotated[int, typer.Option(help="Tokens of a sequence.")] = 256,
    prompt_len: Annotated[int, typer.Option(help="Of these, tokens of the text that the model continues.")] = 32,
    self_distill: Annotated[
        bool, typer.Option(help="Learn from the model's own continuations, or from the text itself.")
    ] = True,
    temperature: Annotated[
        list[float] | None, typer.Option(help="Of the continuations, which take turns; default: 0 and 0.7.")
    ] = None,
    steps: Annotated[int, typer.Option(help="Steps of training.")] = 600,
    batch: Annotated[int, typer.Option(help="Positions of a step.")] = 512,
    learning_rate: Annotated[
        float | None, typer.Option(help="The highest, falling as a cosine; default: by the model's width.")
    ] = None,
    tree_size: Annotated[int, typer.Option(help="Guesses in the tree that is written.")] = 63,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Train Medusa heads on a frozen model (Cai et al., 2024) and report what they guess right."""
    from vivace.medusa.options import MedusaOptions

    options = MedusaOptions(
        num_heads=num_heads,
        num_sequences=num_sequences,
        sequence_len=sequence_len,
        prompt_len=prompt_len,
        self_distill=self_distill,
        temperatures=tuple(temperature or (0.0, 0.7)),
        steps=steps,
        batch=batch,
        learning_rate=learning_rate,
        tree_size=tree_size,
        seed=config.seed,
    )
    for path in data:
        if not path.is_file():
            raise ConfigError(f"cannot read {path}: no such file")
    llm = open_llm(config)
    from vivace.medusa import training

    with _progress() as progress:
        report = training.train_medusa(llm, config.model, data, output, options, progress)
    _print_report(report, output, as_json)


@contextmanager
def _progress() -> Iterator[Progress | None]:
    """A bar a stage on stderr; none where nobody watches."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as ProgressBars

    columns = (TextColumn("{task.description:16}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with ProgressBars(*columns, console=Console(stderr=True)) as bars:
        tasks = {stage: bars.add_task(text, total=None) for stage, text in STAGES.items()}
        yield lambda stage, done, total: bars.update(tasks[stage], completed=done, total=total)


def _print_report(report: MedusaReport, output: Path, as_json: bool) -> None:
    num_heads = len(report.accuracy_KR)
    if as_json:
        heads = [{str(k): report.top(head, k) for k in TOP} for head in range(num_heads)]
        expected = {str(size): value for size, value in report.expected_tokens().items()}
        facts = {"output": str(output), "top_k_accuracy": heads, "expected_tokens": expected, "loss": report.loss}
        print(json.dumps({**facts, "heldout_positions": report.num_positions}))
        return
    print("accuracy   " + "".join(f"  top {k:<3}" for k in TOP))
    for head in range(num_heads):
        print(f"head {head}     " + "".join(f"{100 * report.top(head, k):7.1f}%" for k in TOP))
    print("\nguesses in the tree   tokens a step")
    for size, value in report.expected_tokens().items():
        print(f"{size:19}   {value:.2f}")
    print(f"on {report.num_positions} held-out positions; heads written to {output}", file=sys.stderr)
