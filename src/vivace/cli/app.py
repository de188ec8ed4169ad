"""The `vivace` command: names, help texts and what each one runs."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

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
bench = _typer("Measure speed, beside what the machine could do at most.")
library = _typer("List the models in the package; `vivace models show NAME` prints a card.", runs_alone=True)


@app.callback()
def vivace(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and leave.")
    ] = False,
) -> None:
    """Makes a language model fast on the machine you have, and proves it."""


for command in (generate, chat, serve, tokenize, doctor, quantize, evaluate, profile, plan, optimize):
    app.command(command.__name__)(guarded(command))
bench.command("latency")(guarded(bench_latency))
bench.command("throughput")(guarded(bench_throughput))
bench.command("serve", cls=GoodputCommand)(guarded(bench_serve))
bench.command("compare", cls=GoodputCommand)(guarded(bench_compare))
bench.command("speculate")(guarded(bench_speculate))
bench.command("list")(guarded(bench_list))
bench.command("show")(guarded(bench_show))
bench.command("diff")(guarded(bench_diff))
bench.command("prune")(guarded(bench_prune))
app.add_typer(bench, name="bench")
app.command("train-medusa")(guarded(train_medusa))
library.callback()(guarded(models))
library.command("show")(guarded(show))
app.add_typer(library, name="models")


def main() -> None:
    """Entry point of the `vivace` script."""
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    try:
        app()
    except KeyboardInterrupt:
        sys.exit(EXIT_INTERRUPTED)
