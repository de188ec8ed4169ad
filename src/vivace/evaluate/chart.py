"""An evaluation as one picture: how far tokens are apart, where they agree, and what tasks give, with error bars."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np

from vivace.charts.page import Section, page
from vivace.charts.palette import FAINT, INK, SERIES
from vivace.charts.svg import Panel, bar, dot, drawing, line, picture, text
from vivace.evaluate.evaluation import Evaluation
from vivace.evaluate.quality import Quality, TokenDivergences
from vivace.evaluate.tasks import Metric, TaskResult

MODEL_COLOR, REFERENCE_COLOR = SERIES[:2]
WIDTH, LEFT, PLOT_WIDTH, PLOT_HEIGHT, PANEL_HEIGHT, HEADER_HEIGHT = 920, 80, 800, 180, 280, 110
LOWEST_DECADE = -8  # divergences below 1e-8 nats share the first bar
BARS_A_DECADE = 4
MAX_POSITION_BINS = 8
SHARES = ("acc", "acc_norm", "exact_match", "exact_match_strict")  # metrics from 0 to 1


def chart_svg(evaluation: Evaluation) -> str:
    """A self-contained SVG document."""
    return picture(*_picture(evaluation))


def chart_html(evaluation: Evaluation) -> str:
    """The same in an HTML page without scripts or links, for light and dark screens."""
    return page(f"Evaluation of {evaluation.facts.model}", [Section("", drawing(*_picture(evaluation)))])


def _picture(evaluation: Evaluation) -> tuple[int, int, str, list[str]]:
    """Width, height, title and marks."""
    panels = _panels(evaluation)
    marks = list(_header(evaluation))
    for index, draw in enumerate(panels):
        marks += draw(HEADER_HEIGHT + 30 + index * PANEL_HEIGHT)
    height = HEADER_HEIGHT + len(panels) * PANEL_HEIGHT + 10
    return WIDTH, height, f"Evaluation of {evaluation.facts.model}", marks


def _panels(evaluation: Evaluation) -> list[Callable[[float], Iterator[str]]]:
    """What draws each panel, given where its plot begins."""
    panels: list[Callable[[float], Iterator[str]]] = []
    quality = evaluation.quality
    if quality is not None and quality.tokens is not None:
        panels += [partial(_divergences, quality, quality.tokens), partial(_agreement, quality.tokens)]
    if evaluation.tasks:
        panels.append(partial(_tasks, evaluation.tasks, evaluation.reference_tasks))
    return panels


def _header(evaluation: Evaluation) -> Iterator[str]:
    facts, other, quality = evaluation.facts, evaluation.reference_facts, evaluation.quality
    yield text(LEFT - 50, 34, facts.model, size=18)
    yield text(LEFT - 50, 56, f"{facts.weights} weights, {facts.kv_cache_dtype} cache", color=MODEL_COLOR)
    if other is not None:
        words = f"reference: {other.model}, {other.weights} weights, {other.kv_cache_dtype} cache"
        yield text(LEFT - 50, 74, words, color=REFERENCE_COLOR)
    if quality is not None:
        figures = f"perplexity {quality.perplexity:.4g}, {quality.bits_per_byte:.4f} bits per byte"
        if quality.reference_perplexity is not None:
            figures += f" (reference {quality.reference_perplexity:.4g}, {quality.reference_bits_per_byte:.4f})"
        figures += f"; {quality.num_tokens} tokens, windows of {quality.window}, stride {quality.stride}"
        yield text(LEFT - 50, 94, figures, color=FAINT)


def _divergences(quality: Quality, tokens: TokenDivergences, top: float) -> Iterator[str]:
    """Bars over equal steps of log10: divergences span many decades."""
    decades_T = np.log10(np.maximum(tokens.divergence_T.astype(np.float64), 10.0**LOWEST_DECADE))
    first = min(math.floor(float(np.quantile(decades_T, 0.001))), -1)
    last = max(math.ceil(float(decades_T.max())), first + 2)
    edges = np.linspace(first, last, (last - first) * BARS_A_DECADE + 1)
    shares = np.histogram(np.clip(decades_T, first, last), edges)[0] / len(decades_T)
    highest = float(shares.max())
    panel = Panel(LEFT, top, PLOT_WIDTH, PLOT_HEIGHT, 0.0, 1.15 * highest)  # room for the words above the bars
    ticks = [(share * highest, f"{100 * share * highest:.1f}%") for share in (0.0, 0.5, 1.0)]
    yield from panel.frame("KL divergence of a token from the reference, nats: share of tokens", ticks)
    step = PLOT_WIDTH / len(shares)
    for index, share in enumerate(shares):
        title = f"{10 ** edges[index]:.1e} to {10 ** edges[index + 1]:.1e}: {100 * share:.2f}% of tokens"
        y = panel.y(float(share))
        yield bar(LEFT + index * step + 1, y, step - 2, top + PLOT_HEIGHT - y, color=MODEL_COLOR, title=title)
    for decade in range(first, last + 1):
        x, words = LEFT + PLOT_WIDTH * (decade - first) / (last - first), f"1e{decade}"
        words = f"≤ {words}" if decade == first else words
        yield text(x, top + PLOT_HEIGHT + 18, words, size=11, anchor="middle", color=FAINT)
    for label, value, anchor in (
        ("mean", quality.kl_divergence_mean or 0.0, "end"),
        ("p99", quality.kl_divergence_p99 or 0.0, "start"),
    ):
        exponent = min(max(math.log10(max(value, 10.0**LOWEST_DECADE)), first), last)
        x = LEFT + PLOT_WIDTH * (exponent - first) / (last - first)
        yield line(x, top, x, top + PLOT_HEIGHT, color=INK, dash="4 3")
        yield text(x + (6 if anchor == "start" else -6), top + 12, f"{label} {value:.3g}", anchor=anchor)


def _agreement(tokens: TokenDivergences, top: float) -> Iterator[str]:
    """Bins of about equal numbers of tokens, by how much context a token had."""
    order = np.argsort(tokens.context_T, kind="stable")
    bins = [part for part in np.array_split(order, MAX_POSITION_BINS) if len(part)]
    shares = [float(tokens.agrees_T[part].mean()) for part in bins]
    errors = [math.sqrt(share * (1 - share) / len(part)) for share, part in zip(shares, bins, strict=True)]
    low = max(0.0, math.floor(10 * min(a - b for a, b in zip(shares, errors, strict=True))) / 10)
    low = min(low, 0.9)
    panel = Panel(LEFT, top, PLOT_WIDTH, PLOT_HEIGHT, low, 1.0)
    middle = (low + 1.0) / 2
    yield from panel.frame(
        "Tokens where both prefer the same next one, by tokens of context",
        [(value, f"{100 * value:.0f}%") for value in (low, middle, 1.0)],
    )
    for index, (part, share, error) in enumerate(zip(bins, shares, errors, strict=True)):
        x = LEFT + PLOT_WIDTH * (index + 0.5) / len(bins)
        span = f"{tokens.context_T[part[0]]} to {tokens.context_T[part[-1]]}"
        yield from panel.spread(x, share, error, color=MODEL_COLOR)
        yield dot(x, panel.y(share), color=MODEL_COLOR, title=f"{span}: {100 * share:.2f}% of {len(part)} tokens")
        yield text(x, top + PLOT_HEIGHT + 18, span, size=11, anchor="middle", color=FAINT)


def _tasks(results: list[TaskResult], others: list[TaskResult], top: float) -> Iterator[str]:
    """A dot with one standard error each way for every accuracy; the reference's beside it."""
    panel = Panel(LEFT, top, PLOT_WIDTH, PLOT_HEIGHT, 0.0, 1.0)
    yield from panel.frame(
        "Tasks: share of right answers, with one standard error", [(v, f"{100 * v:.0f}%") for v in (0.0, 0.5, 1.0)]
    )
    columns = [(result, name) for result in results for name in SHARES if name in result.metrics]
    reference = {one.name: one for one in others}
    for index, (result, name) in enumerate(columns):
        x = LEFT + PLOT_WIDTH * (index + 0.5) / len(columns)
        yield from _measured(panel, x - (8 if others else 0), result.metrics[name], MODEL_COLOR)
        if result.name in reference:
            yield from _measured(panel, x + 8, reference[result.name].metrics[name], REFERENCE_COLOR)
        yield text(x, top + PLOT_HEIGHT + 18, result.name[:18], size=11, anchor="middle", color=FAINT)
        yield text(x, top + PLOT_HEIGHT + 34, f"{name}, n={result.num_items}", size=10, anchor="middle", color=FAINT)


def _measured(panel: Panel, x: float, metric: Metric, color: str) -> Iterator[str]:
    if metric.stderr is not None:
        yield from panel.spread(x, metric.value, metric.stderr, color=color)
    spread = "" if metric.stderr is None else f" ± {100 * metric.stderr:.1f}"
    yield dot(x, panel.y(metric.value), color=color, title=f"{100 * metric.value:.1f}{spread}%")
