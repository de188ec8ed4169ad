"""Stored runs as text for a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from vivace.bench.load.local_gpu import gpu_words
from vivace.bench.run_difference import Difference
from vivace.bench.run_report.facts_section import server_facts
from vivace.bench.run_report.latency_section import NAMES, interval_words
from vivace.bench.store.rows import StoredRun
from vivace.bench.stored_result import StoredResult, flat
from vivace.charts.numbers import compact, percent

_FIGURES = ("mean", "p50", "p90", "p95", "p99", "max")


def list_lines(runs: Sequence[StoredRun]) -> Iterator[str]:
    """A line for each run: number, date, kind, requests, the figures that matter most, name."""
    heads = "  ".join(f"{name:>9}" for name in ("TTFT p50", "TPOT p50", "tokens/s"))
    yield f"{'run':>5}  {'began':16}  {'kind':10}  {'requests':>8}  {heads}  name"
    for run in runs:
        summary = run.summary or {}
        figures = [_median(summary, "ttft_ms"), _median(summary, "tpot_ms"), _rate(summary)]
        name = run.name if run.finished_at is not None else f"{run.name} (not finished)"
        columns = "  ".join(f"{figure:>9}" for figure in figures)
        yield f"{run.id:>5}  {date_words(run.started_at)}  {run.kind:10}  {run.num_requests:>8}  {columns}  {name}"


def date_words(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds):%Y-%m-%d %H:%M}"


def result_lines(result: StoredResult) -> Iterator[str]:
    """One run: what it was, its latencies with intervals, throughput, the server."""
    run, summary = result.run, result.summary
    state = "" if run.finished_at is not None else ", not finished: what had ended until then"
    yield f"run {run.id}: {run.kind} {run.name}, {date_words(run.started_at)}, Vivace {run.version}{state}"
    yield f"  {run.command}"
    if "num_requests" not in summary:
        yield from (f"  {name}: {value}" for name, value in flat(summary))
        return
    yield from _latency_lines(summary)
    yield from _count_lines(summary)
    gpu = gpu_words(run.machine)
    yield from [f"  GPU: {gpu}"] if gpu else []
    yield from (f"  {name}: {value}" for name, value in server_facts(summary.get("server") or {}))
    yield from (f"  note: {warning}" for warning in (summary.get("generator") or {}).get("warnings") or ())


def difference_lines(before: StoredResult, after: StoredResult, found: Sequence[Difference]) -> Iterator[str]:
    yield f"{before.title} (before), {after.title} (after)"
    yield f"  {'':12}{'before':>10}{'after':>10}  {'':10}{'ratio':>7}  {'95% interval':16}  verdict"
    for one in found:
        ratio = "" if one.ratio is None else f"×{one.ratio:.3f}"
        interval = "" if one.low is None or one.high is None else f"{one.low:.3f} – {one.high:.3f}"
        figures = f"{_value(one, one.before):>10}{_value(one, one.after):>10}"
        yield f"  {one.name:12}{figures}  {_unit(one):10}{ratio:>7}  {interval:16}  {one.verdict}".rstrip()


def _value(one: Difference, value: float) -> str:
    return percent(value) if one.unit == "share" else compact(value)


def _unit(one: Difference) -> str:
    return "" if one.unit == "share" else one.unit


def _latency_lines(summary: Mapping[str, Any]) -> Iterator[str]:
    known = {label: summary[name] for name, label in NAMES.items() if isinstance(summary.get(name), Mapping)}
    if not known:
        return
    yield f"  {'ms':6}" + "".join(f"{figure:>9}" for figure in _FIGURES) + "   p50 within     p99 within"
    for label, one in known.items():
        figures = "".join(f"{compact(float(one[figure])):>9}" for figure in _FIGURES)
        yield f"  {label:6}{figures}   {interval_words(one, 'p50'):15}{interval_words(one, 'p99')}".rstrip()


def _count_lines(summary: Mapping[str, Any]) -> Iterator[str]:
    units = {"requests": "requests", "output_tokens": "output tokens", "prompt_tokens": "prompt tokens"}
    rates = [f"{compact(summary[f'{name}_per_s'])} {unit}/s" for name, unit in units.items()]
    yield f"  {', '.join(rates)} in {compact(summary['duration_s'])} s"
    names = {"ok": "answered", "refused": "refused", "cancelled": "cancelled", "errors": "failed"}
    counts = [f"{summary[f'num_{name}']} {word}" for name, word in names.items() if summary.get(f"num_{name}")]
    reasons = "; ".join(f"{reason} ({number})" for reason, number in (summary.get("reasons") or {}).items())
    why = f" ({reasons})" if reasons else ""
    yield f"  {summary['num_requests']} requests: {', '.join(counts) or 'none'}{why}"
    if summary.get("goodput_share") is not None:
        low, high = summary.get("goodput_share_interval") or (None, None)
        interval = "" if low is None or high is None else f" ({percent(low)} – {percent(high)})"
        yield f"  goodput {percent(summary['goodput_share'])}{interval} within {summary['slo']}"


def _median(summary: Mapping[str, Any], name: str) -> str:
    one = summary.get(name)
    return compact(float(one["p50"])) if isinstance(one, Mapping) and "p50" in one else "–"


def _rate(summary: Mapping[str, Any]) -> str:
    value = summary.get("output_tokens_per_s")
    return compact(float(value)) if isinstance(value, (int, float)) else "–"
