"""`vivace bench serve`: what real traffic feels, on our server or anyone's."""

from __future__ import annotations

import json
import sys
from typing import Annotated, Any

import typer

from vivace.cli.load_options import LOAD, LoadOptions
from vivace.cli.options import ENGINE, ENGINE_HELP, takes
from vivace.core.errors import ConfigError

CONFIG_HELP = f"A configuration file (*.toml) of the server that is started. Else: {ENGINE_HELP['config']}"


@takes(load=LOAD, engine=ENGINE.given(config=CONFIG_HELP))
def bench_serve(
    engine: dict[str, Any],
    load: LoadOptions,
    url: Annotated[
        str | None, typer.Option(help="A server that runs already, of any make: http://HOST:PORT.")
    ] = None,
    api_key: Annotated[str | None, typer.Option(help="Its key; better in the variable VIVACE_API_KEY.")] = None,
    model_name: Annotated[str | None, typer.Option(help="Which of its models. Default: the first.")] = None,
    sweep: Annotated[
        bool, typer.Option("--sweep", help="Find the highest rate that the server keeps up with.")
    ] = False,
    store: Annotated[str | None, typer.Option(help="File of results. Default: ~/.local/share/vivace.")] = None,
    html: Annotated[str | None, typer.Option(help="Write a report with charts to this file.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Send traffic to a server and measure what its users would feel. Without --url, one with MODEL is started."""
    if sweep and load.trace is not None:
        raise ConfigError("a sweep is over rates: give a --scenario, not a --trace")
    from vivace.cli.load_session import LoadSession
    from vivace.cli.load_target import open_target

    model, is_sweep = engine.pop("model", None), sweep or len(load.rates()) > 1
    with (
        open_target(model, url, load, engine, api_key=api_key, model_name=model_name, say=_say) as opened,
        LoadSession(opened, load, engine.get("seed") or 0, store) as session,
    ):
        if is_sweep:
            session.sweep(is_searching=sweep)
        else:
            session.once()
        if html is not None:
            session.write_report(html)
        lines = session.sweep_lines if is_sweep else session.lines
        print(json.dumps(session.record(), default=str) if as_json else "\n".join(lines()), flush=True)
        if session.error is not None:
            raise session.error


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
