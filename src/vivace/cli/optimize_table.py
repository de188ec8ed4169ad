"""The answer of `vivace optimize` on the terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from vivace.optimize.answer import Answer, Result
from vivace.optimize.cautions import cautions
from vivace.optimize.interval import Interval
from vivace.optimize.objective import UNKEPT

MOST_ROWS = 8
PLAIN_WIDTH, WIDE = 120, 110


def print_answer(answer: Answer, output: Path, report: Path | None) -> None:
    """Tables and conclusions on stdout; where the files are on stderr."""
    width = None if sys.stdout.isatty() else PLAIN_WIDTH
    console = Console(markup=False, emoji=False, highlight=False, width=width)
    if any(rung.measured is not None for rung in answer.rungs):
        console.print(_ladder(answer))
    console.print(_results(answer, is_wide=console.width >= WIDE))
    for line in _conclusions(answer):
        console.print(line, soft_wrap=True)
    print(f"wrote {output}: vivace serve --config {output}", file=sys.stderr)
    if report is not None:
        print(f"wrote {report}", file=sys.stderr)


def _table(title: str, first: str, numbers: Sequence[str]) -> Table:
    table = Table(title=title, box=SIMPLE_HEAD, title_justify="left", padding=(0, 1))
    table.add_column(first, no_wrap=True)
    for name in numbers:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _ladder(answer: Answer) -> Table:
    title = "What each technique brings here, times the throughput"
    table = _table(title, "technique", ("alone", "on top", "1 user", "in all", "KL"))
    table.add_column("")
    for rung in answer.rungs:
        if rung.measured is None:
            continue
        table.add_row(
            rung.name,
            _brief(rung.alone_speed),
            _brief(rung.top_speed),
            _brief(rung.top_latency),
            _brief(rung.total_speed),
            "" if rung.quality is None else f"{rung.quality.kl:.2g}",
            "" if rung.kept else rung.why_not,
        )
    return table


def _results(answer: Answer, *, is_wide: bool) -> Table:
    """On a narrow terminal without forecasts and times to the first token; the report has them."""
    title = f"The best of {len(answer.results)} measured, by {answer.objective.words}"
    at_rates = answer.objective.column(answer.pick.measured)
    wide = ("forecast", "TTFT ms") if is_wide and at_rates is None else ()
    table = _table(title, "", ())
    table.add_column("weights, cache, at once, step/block", no_wrap=True)
    for name in (*([at_rates[0]] if at_rates else []), "tok/s", "x naive", "1 user ms", "MiB", "KL", *wide):
        table.add_column(name, justify="right", no_wrap=True)
    chosen = [answer.pick, *([answer.runner_up] if answer.runner_up else [])]
    others = sorted((one for one in answer.front if one not in chosen), key=lambda one: -one.score)
    for mark, result in _marked(answer, [*chosen, *others[: MOST_ROWS - len(chosen) - 1], answer.naive]):
        measured, error = result.measured, result.prediction_error
        cells = [
            mark,
            result.candidate.short,
            *([column[1]] if (column := answer.objective.column(measured)) else []),
            f"{result.tokens_per_s:,.0f}",
            _times_naive(answer, result),
            f"{measured.single_latency_ms:,.1f}",
            f"{measured.memory_bytes / 2**20:,.0f}",
            "" if result.quality is None else f"{result.quality.kl:.2g}",
        ]
        if wide:
            cells += ["" if error is None else f"{100 * error:+.0f}%", f"{measured.ttft_ms:,.1f}"]
        table.add_row(*cells)
    return table


def _times_naive(answer: Answer, result: Result) -> str:
    """By what is asked for: good requests or the time of an answer at a rate, or throughput."""
    if not answer.objective.is_at_rates:
        return f"{result.times_naive:.1f}"
    return f"{result.score / answer.naive.score:.1f}" if answer.naive.score > 2 * UNKEPT else ""


def _marked(answer: Answer, results: list[Result]) -> Iterator[tuple[str, Result]]:
    for result in results:
        if result is answer.pick:
            yield "pick", result
        elif result is answer.runner_up:
            yield "next", result
        else:
            yield "naive" if result is answer.naive else "", result


def _conclusions(answer: Answer) -> Iterator[str]:
    yield from cautions(answer)
    missing = [rung.name for rung in answer.rungs if rung.measured is None]
    if missing:
        yield f"No time for {', '.join(missing)} on the ladder: a longer --time-budget has it."
    speed, quickness = _times(answer.speedup), _times(answer.quickening)
    yield f"From naive to the pick: {speed} the throughput, one user's answer {quickness} as fast."
    if answer.runner_up is not None:
        yield f"The runner-up is {answer.why_not}."
    if answer.next_step:
        yield f"What binds: {answer.binds}; {answer.next_step}."
    errors = answer.forecast_errors
    parts = [f"{answer.num_forecast:,} candidates forecast", f"{len(answer.results)} measured whole"]
    parts.append(f"{answer.num_partial} in part, {answer.num_discarded} measurements discarded for drift")
    if errors is not None:
        before, after = errors
        parts.append(f"median error of forecasts {100 * before:.0f}%, {100 * after:.0f}% in line with the ladder")
    yield f"{', '.join(parts)}; {answer.seconds:.0f} s."


def _times(interval: Interval | None) -> str:
    return "" if interval is None else f"{interval}x"


def _brief(interval: Interval | None) -> str:
    """The value, and half the width of its interval."""
    if interval is None:
        return ""
    if interval.low is None or interval.high is None:
        return f"{interval.value:.2f}"
    return f"{interval.value:.2f} ±{(interval.high - interval.low) / 2:.2f}"
