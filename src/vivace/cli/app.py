"""The `vivace` command: names, help texts and what each one runs."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Annotated

import typer
from typer.core import TyperCommand

from vivace import __version__
from vivace.cli.bench import bench_latency, bench_throughput
from vivace.cli.bench_compare import bench_compare
from vivace.cli.bench_prune import bench_prune
from vivace.cli.bench_results import bench_diff, bench_list, bench_show
from vivace.cli.bench_serve import bench_serve
from vivace.cli.bench_speculate import bench_speculate
from vivace.cli.chat import chat
from vivace.cli.doctor import doctor
from vivace.cli.evaluate import evaluate
from vivace.cli.failures import EXIT_INTERRUPTED, guarded
from vivace.cli.generate import generate
from vivace.cli.goodput_command import GoodputCommand
from vivace.cli.models import models, show
from vivace.cli.optimize import optimize
from vivace.cli.plan import plan
from vivace.cli.profile import profile
from vivace.cli.quantize import quantize
from vivace.cli.serve import serve
from vivace.cli.tokenize import tokenize
from vivace.cli.train_medusa import train_medusa

BENCH_HELP = "Measure speed, beside what the machine could do at most."
LIBRARY_HELP = "List the models in the package; `vivace models show NAME` prints a card."


def _typer(help_text: str, *, runs_alone: bool = False) -> typer.Typer:
    """Plain help and errors: rich's would cost 0.1 s of import on the way to every first token."""
    return typer.Typer(
        help=help_text,
        add_completion=False,
        no_args_is_help=not runs_alone,
        invoke_without_command=runs_alone,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"]},
    )


def _print_version(wanted: bool) -> None:
    if wanted:
        print(__version__)
        raise typer.Exit


app = _typer("Makes a language model fast on the machine you have, and proves it.")
bench = _typer(BENCH_HELP)
library = _typer(LIBRARY_HELP, runs_alone=True)


@app.callback()
def vivace(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and leave.")
    ] = False,
) -> None:
    """Makes a language model fast on the machine you have, and proves it."""


def _add(group: typer.Typer, name: str, command: Callable[..., None], cls: type[TyperCommand] | None = None) -> None:
    """The group's list shows the whole first sentence: left to itself it is cut off in the middle of one."""
    group.command(name, cls=cls, short_help=first_sentence(command))(guarded(command))


def first_sentence(command: Callable[..., None]) -> str:
    """Of its docstring, in one line."""
    sentence, stop, _ = " ".join((command.__doc__ or "").split()).partition(". ")
    return sentence + stop.strip()


for command in (generate, chat, serve, tokenize, doctor, quantize, evaluate, profile, plan, optimize):
    _add(app, command.__name__, command)
_add(bench, "latency", bench_latency)
_add(bench, "throughput", bench_throughput)
_add(bench, "serve", bench_serve, GoodputCommand)
_add(bench, "compare", bench_compare, GoodputCommand)
_add(bench, "speculate", bench_speculate)
_add(bench, "list", bench_list)
_add(bench, "show", bench_show)
_add(bench, "diff", bench_diff)
_add(bench, "prune", bench_prune)
app.add_typer(bench, name="bench", short_help=BENCH_HELP)
_add(app, "train-medusa", train_medusa)
library.callback()(guarded(models))
_add(library, "show", show)
app.add_typer(library, name="models", short_help=LIBRARY_HELP)


def main() -> None:
    """Entry point of the `vivace` script."""
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    try:
        app()
    except KeyboardInterrupt:
        sys.exit(EXIT_INTERRUPTED)
