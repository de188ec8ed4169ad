"""What speculation brought, as text and as a page with charts."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence

from vivace.bench.break_even import break_even, expected_speedup
from vivace.bench.speculation import Comparison, StepCosts
from vivace.charts.axis import Axis
from vivace.charts.lines import Guide, Series, lines
from vivace.charts.page import Section, page
from vivace.charts.table import table

HEADERS = ("method", "prompt", "batch", "plain tok/s", "speed-up", "always", "tokens/step", "stood, by place")
WIDTHS = (18, 6, 5, 11, 20, 6, 11, 0)
RATES = tuple(step / 20 for step in range(21))
MEANING = (
    "Speed-up: as the rule chooses, median of the rounds (least - most). Always: guessing all there is. "
    "Stood: of the guesses at each place whose predecessors stood, guessing always."
)


def comparison_lines(comparisons: Sequence[Comparison]) -> Iterator[str]:
    """The table of all comparisons, as text."""
    for cells in (HEADERS, *map(_cells, comparisons)):
        yield "  ".join(str(cell).ljust(width) for cell, width in zip(cells, WIDTHS, strict=True)).rstrip()


def break_even_lines(costs: Sequence[StepCosts], comparisons: Sequence[Comparison]) -> Iterator[str]:
    """How often guesses must stand on this machine, by batch size, for free ones and for those that were measured."""
    for cost in costs:
        yield f"batch {cost.batch_size}, prompts of {cost.prompt_len}: " + _step_words(cost.step_s)
        for name, guess_s in _guess_costs(cost, comparisons):
            rates = [break_even(cost.step_s, count, guess_s) for count in range(1, len(cost.step_s))]
            words = ", ".join("never" if rate is None else f"{rate:.2f}" for rate in rates)
            yield f"  {name}: 1 to {len(rates)} guesses pay if each stands with {words}"


def speculation_page(title: str, comparisons: Sequence[Comparison], costs: Sequence[StepCosts]) -> str:
    """One self-contained HTML document."""
    sections = [Section("Speed-up", _speedup_charts(comparisons) + _comparison_table(comparisons), MEANING)]
    if any(one.stood for one in comparisons):
        sections.append(Section("Guesses that stand", _stood_chart(comparisons)))
    if costs:
        lead = "From the measured time of steps with guesses: what drafts that cost nothing would bring at most."
        sections.append(Section("What a draft would have to reach", _break_even_chart(costs), lead))
    return page(title, sections)


def _cells(one: Comparison) -> tuple[str, ...]:
    low, high = min(one.speedups), max(one.speedups)
    return (
        one.method,
        str(one.prompt_len),
        str(one.batch_size),
        f"{one.plain_tokens_per_s:.0f}",
        f"{statistics.median(one.speedups):.2f} ({low:.2f} - {high:.2f})",
        f"{statistics.median(one.always_speedups):.2f}",
        f"{one.tokens_per_step:.2f}",
        " ".join(f"{rate:.2f}" for rate in one.stood) or "no guesses",
    )


def _step_words(step_s: Sequence[float]) -> str:
    ratios = " ".join(f"{seconds / step_s[0]:.2f}" for seconds in step_s[1:])
    return f"a step takes {1e3 * step_s[0]:.3g} ms; with 1 to {len(step_s) - 1} guesses each {ratios} times that"


def _guess_costs(cost: StepCosts, comparisons: Sequence[Comparison]) -> Iterator[tuple[str, float]]:
    yield "free guesses", 0.0
    for one in comparisons:
        if one.guess_s and (one.batch_size, one.prompt_len) == (cost.batch_size, cost.prompt_len):
            yield f"{one.method}, {1e3 * one.guess_s:.2g} ms a pass", one.guess_s


def _comparison_table(comparisons: Sequence[Comparison]) -> str:
    return table(HEADERS, [_cells(one) for one in comparisons], caption="Speculation beside plain decoding")


def _speedup_charts(comparisons: Sequence[Comparison]) -> str:
    """One for each prompt length: speed-up over the batch size, a line a method."""
    charts = []
    for prompt_len in dict.fromkeys(one.prompt_len for one in comparisons):
        some = [one for one in comparisons if one.prompt_len == prompt_len]
        series = [
            Series(
                method,
                [(one.batch_size, statistics.median(one.speedups)) for one in some if one.method == method],
                [(one.batch_size, min(one.speedups), max(one.speedups)) for one in some if one.method == method],
            )
            for method in dict.fromkeys(one.method for one in some)
        ]
        charts.append(
            lines(
                f"Prompts of {prompt_len} tokens",
                series,
                x=Axis("batch size", log=True),
                y=Axis("tokens a second over plain decoding"),
                guides=[Guide(1.0, "plain")],
            )
        )
    return "\n".join(charts)


def _stood_chart(comparisons: Sequence[Comparison]) -> str:
    """Of each method, at the first size that it was measured at."""
    firsts = {one.method: one for one in reversed(comparisons) if one.stood}
    series = [Series(name, list(enumerate(one.stood, 1))) for name, one in reversed(firsts.items())]
    places, shares = Axis("place of the guess"), Axis("share that stood", share=True)
    return lines("By place, where all before it stood", series, x=places, y=shares)


def _break_even_chart(costs: Sequence[StepCosts]) -> str:
    series = [
        Series(
            f"batch {cost.batch_size}, {cost.prompt_len} tokens",
            [(rate, expected_speedup(cost.step_s, rate)[0]) for rate in RATES],
        )
        for cost in costs
    ]
    return lines(
        "Best number of guesses, none included",
        series,
        x=Axis("chance that a guess stands", share=True),
        y=Axis("tokens a second over plain decoding"),
    )
