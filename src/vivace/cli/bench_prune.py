"""`vivace bench prune`: forget old runs."""

from __future__ import annotations

import json
import time
from typing import Annotated

import typer

from vivace.cli.bench_results import Json, Store, moment
from vivace.core.errors import ConfigError


def bench_prune(
    keep: Annotated[int | None, typer.Option(help="Keep so many, the newest.", min=0)] = None,
    before: Annotated[str | None, typer.Option(help="Only runs begun before: 2026-11-22, or 90d, 12h ago.")] = None,
    kind: Annotated[str | None, typer.Option(help="Only runs of this kind, as in `serve`.")] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Remove them. Without it they are only shown.")] = False,
    store: Store = None,
    as_json: Json = False,
) -> None:
    """Remove runs that are kept, with their requests; by number, by age, or both. There is no way back."""
    from vivace.bench.result_table import list_lines
    from vivace.bench.store.location import default_store_path
    from vivace.bench.store.pruning import prunable
    from vivace.bench.store.result_store import ResultStore

    if keep is None and before is None:
        raise ConfigError("say which runs may go: --keep 20 for all but the newest 20, --before 90d for older ones")
    latest = None if before is None else moment(before, "--before")
    path = store or default_store_path()
    with ResultStore(path, read_only=True) as opened:
        runs = prunable(opened.runs(kind=kind), keep=keep, before=latest, now=time.time())
    if yes and runs:
        with ResultStore(path) as opened:
            opened.remove([run.id for run in runs])
    if as_json:
        print(json.dumps({"runs": [run.id for run in runs], "removed": yes}))
    elif not runs:
        print("no such run")
    else:
        print(*list_lines(runs), sep="\n")
        size = f"{path.stat().st_size / 1e6:.1f} MB"
        print(f"removed; {path} has {size} now" if yes else f"{len(runs)} of {size} would go: --yes removes them")
