"""Several runs beside each other: where more load only buys waiting."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from vivace.bench.run_report.latency_section import distribution_points, samples_of
from vivace.bench.stored_result import StoredResult
from vivace.charts.axis import Axis
from vivace.charts.lines import Guide, Series, lines
from vivace.charts.numbers import compact, percent
from vivace.charts.page import Section
from vivace.charts.table import table

_MAX_LINES = 6  # distributions that one chart shows apart


def load_sections(results: Sequence[StoredResult]) -> list[Section]:
    """Latency against throughput, the distributions, and a row for each run."""
    ordered = sorted(results, key=_offered)
    charts = [_against_throughput(ordered, name, label) for name, label in (("ttft_ms", "TTFT"), ("tpot_ms", "TPOT"))]
    shown = [result for result in ordered if len(samples_of(result.latencies)["ttft_ms"]) > 1][-_MAX_LINES:]
    series = [
        Series(_short_name(one), distribution_points(samples_of(one.latencies)["ttft_ms"]), steps=True)
        for one in shown
    ]
    spread = lines(
        "TTFT: how many were done within a time",
        series,
        x=Axis("Time", "ms", log=True),
        y=Axis("Share", share=True, low=0, high=1),
        guides=[Guide(0.5, "half of them"), Guide(0.99, "99%")],
    )
    load = Section("Throughput against latency", "".join(charts))
    return [load, Section("Latency", spread if series else ""), Section("Runs", _table(results))]


def _offered(result: StoredResult) -> float:
    """What the traffic asked for; what was answered where the traffic waits for answers (a closed loop)."""
    for name in ("rate", "concurrency"):
        if (value := _setting(result, name)) is not None:
            return value
    return float(result.summary.get("requests_per_s") or 0.0)


def _against_throughput(results: Sequence[StoredResult], name: str, label: str) -> str:
    series = []
    for figure in ("p50", "p99"):
        known = [
            (float(result.summary["requests_per_s"]), result.summary[name])
            for result in results
            if result.summary.get(name) and result.summary.get("requests_per_s")
        ]
        band = [
            (x, *one["interval"][figure])
            for x, one in known
            if one.get("interval", {}).get(figure, (None,))[0] is not None
        ]
        if known:
            series.append(Series(f"{label} {figure}", [(x, float(one[figure])) for x, one in known], band=band))
    bounds = {getattr(result.slo, name.removesuffix("_ms"), None) for result in results} - {None}
    guides = [Guide(float(bound), f"objective {compact(bound)} ms") for bound in bounds if bound is not None]
    x, y = Axis("Answered", "requests/s"), Axis(label, "ms")
    note = "a point for each run, joined by growing load, with 95% intervals"
    return lines(f"{label} against throughput", series, x=x, y=y, guides=guides[:1], note=note) if series else ""


def _table(results: Sequence[StoredResult]) -> str:
    headers = ["run", "requests/s", "tokens/s", "TTFT p50", "TTFT p99", "TPOT p50", "E2EL p99", "goodput", "errors"]
    rows = [[_short_name(result), *_cells(result.summary)] for result in sorted(results, key=_offered)]
    notes = "Latencies in milliseconds; their 95% intervals are in the report of each run."
    return table(headers, rows, caption="The runs", notes=notes)


def _cells(summary: Mapping[str, Any]) -> list[str]:
    def figure(name: str, which: str) -> str:
        one = summary.get(name)
        return compact(float(one[which])) if isinstance(one, Mapping) else "–"

    share = summary.get("goodput_share")
    bad = sum(int(summary.get(name) or 0) for name in ("num_errors", "num_refused"))
    return [
        compact(float(summary.get("requests_per_s") or 0.0)),
        compact(float(summary.get("output_tokens_per_s") or 0.0)),
        figure("ttft_ms", "p50"),
        figure("ttft_ms", "p99"),
        figure("tpot_ms", "p50"),
        figure("e2el_ms", "p99"),
        "–" if share is None else percent(float(share)),
        str(bad),
    ]


def _short_name(result: StoredResult) -> str:
    for name, unit in (("rate", "requests/s"), ("concurrency", "users")):
        if (value := _setting(result, name)) is not None:
            return f"Run {result.run.id}, {value:g} {unit}"
    return f"Run {result.run.id}, {result.run.name}"


def _setting(result: StoredResult, name: str) -> float | None:
    """A number of the run's options, or of its traffic's."""
    traffic = result.run.options.get("traffic")
    value = result.run.options.get(name, traffic.get(name) if isinstance(traffic, dict) else None)
    return float(value) if isinstance(value, (int, float)) else None
