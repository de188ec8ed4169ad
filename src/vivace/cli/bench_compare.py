"""`vivace bench compare A B`: the same traffic to two servers in turn, and their ratios."""

from __future__ import annotations

import json
import sys
from typing import Annotated, Any

import typer

from vivace.cli.load_options import LOAD, LoadOptions
from vivace.cli.options import MODEL_ONLY, takes
from vivace.core.errors import ConfigError

SIDE_HELP = "A URL, a model, embedded, or a vivace.toml."


@takes(load=LOAD.without("request_rate").with_defaults(num_requests=40), engine=MODEL_ONLY.without("model").given())
def bench_compare(
    a: Annotated[str, typer.Argument(metavar="A", help=SIDE_HELP)],
    b: Annotated[str, typer.Argument(metavar="B", help=SIDE_HELP)],
    engine: dict[str, Any],
    load: LoadOptions,
    request_rate: Annotated[float | None, typer.Option(help="Requests a second (open loop).")] = None,
    max_model_len: Annotated[int | None, typer.Option(help="Tokens of a prompt and its answer at most.")] = None,
    rounds: Annotated[int, typer.Option(help="Times that each side is measured.", min=1)] = 3,
    api_key: Annotated[list[str] | None, typer.Option(help="Key of A, then of B; one alone is for both.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the traffic; each round has its own.")] = 0,
    store: Annotated[str | None, typer.Option(help="File of results. Default: ~/.local/share/vivace.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Send the same traffic to two servers in alternating rounds and print the ratios with their spread."""
    keys = [*(api_key or []), *[None] * 2]
    if api_key is not None and len(api_key) == 1:
        keys = [api_key[0], api_key[0]]
    if request_rate is not None and request_rate <= 0:
        raise ConfigError("--request-rate must be above 0")
    from vivace.bench.comparison import comparison_lines
    from vivace.cli.load_comparison import LoadComparison
    from vivace.cli.load_target import open_side

    with (
        open_side(a, load, engine, max_model_len, keys[0], _say) as first,
        open_side(b, load, engine, max_model_len, keys[1], _say) as second,
        LoadComparison((first, second), load, seed, store) as comparison,
    ):
        comparison.run(rounds, request_rate)
        lines = comparison_lines(comparison.ratios, comparison.names)
        print(json.dumps(comparison.record(), default=str) if as_json else "\n".join(lines), flush=True)
        if comparison.error is not None:
            raise comparison.error


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
