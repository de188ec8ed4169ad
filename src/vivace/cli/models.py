"""`vivace models`: what the package carries, and its cards."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from vivace.resources import Resource, resource, resources


def models(
    context: typer.Context,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object a line.")] = False,
) -> None:
    """List the models in the package; `vivace models show NAME` prints a card."""
    if context.invoked_subcommand is not None:
        return
    for one in resources():
        line = f"{one.name:<16} {one.num_bytes / 1e6:6.2f} MB  {one.summary}"
        print(json.dumps(_facts(one)) if as_json else line)


def show(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A name that `vivace models` lists.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object, the card in it.")] = False,
) -> None:
    """Print a model's card: data, licence, training, quality."""
    one = resource(name)
    print(json.dumps({**_facts(one), "card": one.card}) if as_json else one.card)


def _facts(one: Resource) -> dict[str, object]:
    return {
        "name": one.name,
        "kind": one.kind,
        "bytes": one.num_bytes,
        "path": str(one.path),
        "summary": one.summary,
    }
