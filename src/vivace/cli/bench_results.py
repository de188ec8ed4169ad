"""`vivace bench list`, `vivace bench show` and `vivace bench diff`: the runs that are kept."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vivace.core.errors import ConfigError

if TYPE_CHECKING:
    from vivace.bench.store.result_store import ResultStore
    from vivace.bench.store.rows import StoredRun
    from vivace.bench.stored_result import StoredResult

Store = Annotated[
    Path | None,
    typer.Option(help="The file of results. Default: vivace/results.sqlite in the user's data directory."),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
RUN_HELP = "Its number, or `last`."


def bench_list(
    kind: Annotated[str | None, typer.Option(help="Only runs of this kind, as in `serve`.")] = None,
    name: Annotated[str | None, typer.Option(help="Only runs with this in their name.")] = None,
    since: Annotated[str | None, typer.Option(help="Only runs begun since then: 2026-11-22, or 7d, 12h.")] = None,
    limit: Annotated[int, typer.Option(help="Only so many, the newest.", min=1)] = 20,
    store: Store = None,
    as_json: Json = False,
) -> None:
    """List the runs that are kept, the newest last."""
    from vivace.bench.result_table import list_lines

    earliest = None if since is None else moment(since, "--since")
    with _opened(store) as opened:
        runs = [
            run
            for run in opened.runs(kind=kind)
            if (name is None or name.lower() in run.name.lower()) and (earliest is None or run.started_at >= earliest)
        ][-limit:]
    if as_json:
        print(json.dumps([asdict(run) for run in runs]))
    else:
        print(*list_lines(runs), sep="\n") if runs else print("no such run")


def bench_show(
    runs: Annotated[list[str], typer.Argument(metavar="RUN...", help=f"{RUN_HELP} Several make a sweep.")],
    csv: Annotated[Path | None, typer.Option(help="Write the requests to this file, or to `-`, as CSV.")] = None,
    html: Annotated[Path | None, typer.Option(help="Write a report in one file, with charts; `-` prints it.")] = None,
    store: Store = None,
    as_json: Json = False,
) -> None:
    """Show a run: its latencies with their intervals, throughput, what the server told."""
    from vivace.bench.request_csv import request_csv
    from vivace.bench.result_table import result_lines
    from vivace.bench.run_report.report import run_report

    if csv is not None and len(runs) > 1:
        raise ConfigError("--csv writes the requests of one run: name one")
    results = _results(runs, store)
    if csv is not None:
        _write(csv, request_csv(results[0].records))
    if html is not None:
        _write(html, run_report(results))
    if as_json:
        records = [{**asdict(result.run), "summary": result.summary} for result in results]
        print(json.dumps(records[0] if len(records) == 1 else records))
    elif csv is None and html is None:
        for result in results:
            print(*result_lines(result), sep="\n")


def bench_diff(
    before: Annotated[str, typer.Argument(metavar="BEFORE", help=RUN_HELP)],
    after: Annotated[str, typer.Argument(metavar="AFTER", help=RUN_HELP)],
    goodput: Annotated[
        list[str] | None, typer.Option(help="Objectives, as in ttft:500 tpot:50. Default: those of the runs.")
    ] = None,
    store: Store = None,
    as_json: Json = False,
) -> None:
    """Compare two runs: ratios, and whether chance explains them."""
    from vivace.bench.result_table import difference_lines
    from vivace.bench.run_difference import differences
    from vivace.bench.slo import SLO

    one, other = _results([before, after], store)
    for result in (one, other):
        if not result.records:
            raise ConfigError(f"run {result.run.id} kept no requests: there is nothing to compare")
    slo = SLO.parse(goodput) if goodput else other.slo or one.slo
    found = differences(one.records, other.records, slo)
    if as_json:
        print(
            json.dumps({"before": one.run.id, "after": other.run.id, "differences": [asdict(row) for row in found]})
        )
    else:
        print(*difference_lines(one, other, found), sep="\n")


def _opened(path: Path | None) -> ResultStore:
    from vivace.bench.store.location import default_store_path
    from vivace.bench.store.result_store import ResultStore

    return ResultStore(path or default_store_path(), read_only=True)


def _results(names: Sequence[str], path: Path | None) -> list[StoredResult]:
    from vivace.bench.stored_result import StoredResult

    with _opened(path) as store:
        runs: list[StoredRun] = store.runs() if "last" in names else []
        return [StoredResult.read(store, _number(name, runs)) for name in names]


def _number(name: str, runs: Sequence[StoredRun]) -> int:
    if name == "last":
        if not runs:
            raise ConfigError("no run is kept yet")
        return runs[-1].id
    if not (name.isascii() and name.isdigit() and len(name) < 19):
        raise ConfigError(f"a run is a number of `vivace bench list`, or `last`, not {name!r}")
    return int(name)


def moment(words: str, flag: str) -> float:
    """Seconds since 1970 of a date, or of so many days or hours ago."""
    unit = {"d": "days", "h": "hours", "m": "minutes"}.get(words[-1:])
    try:
        if unit and words[:-1].isdigit():
            return (datetime.now() - timedelta(**{unit: int(words[:-1])})).timestamp()
        return datetime.fromisoformat(words).timestamp()
    except (ValueError, OverflowError):
        raise ConfigError(f"{flag} takes a date as in 2026-11-22, or 7d, 12h, 30m, not {words!r}") from None


def _write(path: Path, text: str) -> None:
    from vivace.formats.text_file import write_text

    if str(path) == "-":
        sys.stdout.write(text)
        return
    write_text(path, text)
    print(f"wrote {path}", file=sys.stderr)
