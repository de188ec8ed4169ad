"""`vivace plan`: will a model fit, and how fast, on this machine and on those that you do not have."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vivace.cli.screen import counter
from vivace.core.errors import ConfigError

if TYPE_CHECKING:
    from vivace.plan.comparison import Candidate
    from vivace.plan.deployment import TrafficShape
    from vivace.plan.machine import Machine
    from vivace.plan.planned_model import PlannedModel

DEFAULT_HARDWARE = "this,rtx4090,l4,l40s,a100-80,h100,epyc-9654"


def plan(
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="[MODEL]", help="A preset, config.json, directory, GGUF file or hub name; default: embedded."
        ),
    ] = None,
    hardware: Annotated[
        str, typer.Option(help="Machines, with commas; `this` is the one you are on, `all` the whole table.")
    ] = DEFAULT_HARDWARE,
    workload: Annotated[
        str,
        typer.Option(help="chat, rag, long-prompt, long-answer, agent, uniform, or PROMPT:ANSWER[:CACHED]."),
    ] = "chat",
    slo: Annotated[
        list[str] | None, typer.Option(help="Objectives of a request in ms: ttft:500,tpot:50 (also itl, e2el).")
    ] = None,
    users: Annotated[int, typer.Option(help="Users who each wait for an answer before they ask again.", min=1)] = 16,
    rate: Annotated[float | None, typer.Option(help="Requests a second, in place of --users.")] = None,
    quantization: Annotated[
        str | None, typer.Option(help="Weights to look at, with commas; default: what is common on each machine.")
    ] = None,
    kv_cache_dtype: Annotated[str, typer.Option(help="Keys and values, as in vivace serve.")] = "auto",
    max_num_seqs: Annotated[int, typer.Option(help="Sequences that run at once.", min=1)] = 256,
    max_num_batched_tokens: Annotated[int, typer.Option(help="Tokens a step computes at most.", min=1)] = 2048,
    price: Annotated[
        list[str] | None, typer.Option(help="Price of a machine, as h100=2.5/h; may be repeated.")
    ] = None,
    calibrate: Annotated[
        bool, typer.Option("--calibrate", help="Measure this machine first, about a minute; the result is kept.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    html: Annotated[Path | None, typer.Option(help="Write one self-contained HTML page to this file.")] = None,
) -> None:
    """Say whether a model fits a machine and how fast it would be there: memory, latency, users, cost."""
    from vivace.plan.comparison import compare
    from vivace.plan.deployment import Deployment
    from vivace.plan.planned_model import planned_model
    from vivace.plan.recommendation import recommendation
    from vivace.plan.weights import quantization_name

    quantizations = [quantization_name(name) for name in _names(quantization or "")]
    traffic = _traffic(workload, users, rate, slo)
    planned = planned_model(model)
    deployment = Deployment(
        kv_cache_dtype=_kv_cache_dtype(kv_cache_dtype),
        max_num_seqs=max_num_seqs,
        max_num_batched_tokens=max_num_batched_tokens,
    )
    prices, machines = _prices(price or []), _machines(_names(hardware), calibrate)
    candidates = compare(
        planned, machines, traffic, deployment=deployment, quantizations=quantizations, prices=prices
    )
    sentences = recommendation(planned, candidates, traffic)
    if html is not None:
        _write(html, planned, candidates, traffic, sentences)
    if as_json:
        print(json.dumps(_record(planned, candidates, traffic, sentences)))
        return
    _print(planned, candidates, traffic, sentences)


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _kv_cache_dtype(name: str) -> Any:
    from vivace.core.config import CHOICES, KV_CACHE_ALIASES

    name = KV_CACHE_ALIASES.get(name, name)
    if name not in CHOICES["kv_cache_dtype"]:
        raise ConfigError(f"--kv-cache-dtype must be one of {', '.join(CHOICES['kv_cache_dtype'])}")
    return name


def _traffic(workload: str, users: int, rate: float | None, slo: list[str] | None) -> TrafficShape:
    from vivace.bench.slo import SLO
    from vivace.plan.comparison import workload_shape

    return replace(workload_shape(workload), concurrency=users, rate_per_s=rate, slo=SLO.parse(slo) if slo else None)


def _machines(names: list[str], calibrate: bool) -> list[Machine]:
    from vivace.plan.hardware import NAMES, hardware
    from vivace.plan.this_machine import calibrate as measure
    from vivace.plan.this_machine import this_machine

    wanted = ["this", *NAMES] if names == ["all"] else names
    if not wanted:
        raise ConfigError(f"--hardware needs a name: this, {', '.join(NAMES)}")
    if calibrate and "this" not in wanted:
        raise ConfigError("--calibrate measures this machine: add `this` to --hardware")
    known = {name: hardware(name) for name in wanted if name != "this"}  # before anything is measured
    if "this" in wanted:
        known["this"] = measure(progress=counter("measurements")) if calibrate else this_machine()
    return [known[name] for name in wanted]


def _prices(entries: list[str]) -> dict[str, float]:
    prices = {}
    for entry in " ".join(entries).replace(",", " ").split():
        name, _, value = entry.partition("=")
        amount, _, unit = value.partition("/")
        try:
            number = float(amount)
        except ValueError:
            number = -1.0
        if not name or unit not in ("", "h") or not 0 < number < float("inf"):
            raise ConfigError(f"a price is MACHINE=AMOUNT/h, as in h100=2.5/h, not {entry!r}")
        prices[name] = number
    return prices


def _record(
    planned: PlannedModel, candidates: list[Candidate], traffic: TrafficShape, sentences: list[str]
) -> dict[str, Any]:
    from dataclasses import asdict

    return {
        "model": planned.name,
        "num_parameters": planned.num_parameters,
        "traffic": asdict(traffic),
        "recommendation": sentences,
        "candidates": [one.record() for one in candidates],
    }


def _write(
    path: Path, planned: PlannedModel, candidates: list[Candidate], traffic: TrafficShape, sentences: list[str]
) -> None:
    from vivace.formats.atomic_file import atomic_writer
    from vivace.plan.report import html

    try:
        with atomic_writer(path) as file:
            file.write(html(planned, candidates, traffic, sentences).encode())
    except OSError as error:
        raise ConfigError(f"--html: {path} cannot be written ({error.strerror})") from error


def _print(planned: PlannedModel, candidates: list[Candidate], traffic: TrafficShape, sentences: list[str]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    from vivace.plan.report import COLUMNS, cells, traffic_words

    rows = [cells(one) for one in candidates]
    shown = [index for index in range(len(COLUMNS)) if index < 3 or any(row[index] for row in rows)]
    title = f"{planned.name}, {planned.num_parameters / 1e9:.2f} B parameters: {traffic_words(traffic)}"
    table = Table(box=SIMPLE_HEAD, title=title, title_justify="left", pad_edge=False)
    for index in shown:
        table.add_column(COLUMNS[index], justify="left" if index in (0, 1, len(COLUMNS) - 1) else "right")
    for row in rows:
        table.add_row(*(row[index] for index in shown))
    console = Console(highlight=False)
    console.print(table)
    for sentence in sentences:
        console.print(f"  {sentence}", soft_wrap=True)
    for basis in dict.fromkeys(one.machine.efficiency.basis for one in candidates):
        names = ", ".join(
            dict.fromkeys(one.machine.name for one in candidates if one.machine.efficiency.basis == basis)
        )
        console.print(f"  {names}: {basis}", soft_wrap=True)
