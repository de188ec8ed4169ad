"""The page: the figures that matter first, then the charts, then all that is needed to do it again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from vivace.bench.run_report.facts_section import facts_sections, settings_sections
from vivace.bench.run_report.latency_section import interval_words, latency_section
from vivace.bench.run_report.load_section import load_sections
from vivace.bench.run_report.time_section import time_section
from vivace.bench.stored_result import StoredResult
from vivace.charts.notice import notice
from vivace.charts.numbers import compact, percent
from vivace.charts.page import Section, page
from vivace.charts.tiles import Tile, tiles


def run_report(results: Sequence[StoredResult]) -> str:
    """HTML of one run, or of a sweep where there are several (of one or more)."""
    if len(results) > 1:
        return _sweep(results)
    (result,) = results
    opening = notice(list(_remarks(result))) + tiles(list(_tiles(result.summary)))
    sections = [Section("", opening), latency_section(result)]
    over_time = time_section(result)
    if over_time is not None:
        sections.append(over_time)
    sections += facts_sections(result)
    return page(_title(result), sections, subtitle=_subtitle(result))


def _sweep(results: Sequence[StoredResult]) -> str:
    remarks = [f"Run {result.run.id}: {remark}" for result in results for remark in _remarks(result)]
    sections = [Section("", notice(remarks)), *load_sections(results), *settings_sections(results)]
    names = ", ".join(dict.fromkeys(result.run.name for result in results))
    return page(f"{names}: {len(results)} runs", sections, subtitle=_subtitle(results[0]))


def _title(result: StoredResult) -> str:
    model = result.run.options.get("model")
    return f"{result.run.name} on {model}" if isinstance(model, str) and model else result.run.name


def _subtitle(result: StoredResult) -> str:
    date = datetime.fromtimestamp(result.run.started_at).astimezone()
    words = f"{date.day} {date:%B %Y, %H:%M %Z}"
    return f"vivace bench {result.run.kind}, run {result.run.id}, {words}"


def _remarks(result: StoredResult) -> Iterator[str]:
    """What a reader must know before the figures."""
    if result.run.finished_at is None:
        yield "This run did not come to its end: the figures are those of the requests that had ended until then."
    for warning in (result.summary.get("generator") or {}).get("warnings") or ():
        yield f"{warning[:1].upper()}{warning[1:]}."
    bad = {name: int(result.summary.get(f"num_{name}") or 0) for name in ("errors", "refused", "cancelled")}
    if any(bad.values()):
        counts = ", ".join(f"{number} {name.replace('errors', 'failed')}" for name, number in bad.items() if number)
        reasons = "; ".join(
            f"{reason} ({number})" for reason, number in (result.summary.get("reasons") or {}).items()
        )
        yield f"Of {result.summary['num_requests']} requests, {counts}" + (f": {reasons}." if reasons else ".")


def _tiles(summary: Mapping[str, Any]) -> Iterator[Tile]:
    for name, label in (("ttft_ms", "TTFT"), ("tpot_ms", "TPOT"), ("e2el_ms", "E2EL")):
        one = summary.get(name)
        if isinstance(one, Mapping):
            interval = interval_words(one, "p50")
            note = " · ".join(filter(None, (interval, f"p99 {compact(one['p99'])}")))
            yield Tile(f"{label}, median", compact(one["p50"]), "ms", note)
    if "output_tokens_per_s" in summary:
        yield Tile("Output", compact(summary["output_tokens_per_s"]), "tokens/s", _input(summary))
        yield Tile("Requests", compact(summary["requests_per_s"]), "a second", f"{summary['num_ok']} answered")
    if summary.get("goodput_share") is not None:
        yield Tile("Goodput", percent(summary["goodput_share"]), "", str(summary.get("slo") or ""))
    elif summary.get("num_requests"):
        yield Tile("Answered", percent(summary["num_ok"] / summary["num_requests"]), "", "of all requests")


def _input(summary: Mapping[str, Any]) -> str:
    return f"and {compact(summary['prompt_tokens_per_s'])} of prompts"
