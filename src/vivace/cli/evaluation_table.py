"""An evaluation as a table in the terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterator

from rich.console import Console
from rich.table import Table

from vivace.evaluate.evaluation import Evaluation, ModelFacts
from vivace.evaluate.quality import Quality
from vivace.evaluate.tasks import Metric

Row = tuple[str, str, str]  # measure, model, reference


def print_evaluation(evaluation: Evaluation, source: str | None) -> None:
    """The figures on stdout; on stderr what they were measured on."""
    has_reference = evaluation.reference_facts is not None
    table = Table()
    table.add_column("measure")
    table.add_column("model", justify="right")
    if has_reference:
        table.add_column("reference", justify="right")
    for row in _rows(evaluation):
        table.add_row(*(row if has_reference else row[:2]))
    Console(markup=False, emoji=False, highlight=False).print(table)
    quality = evaluation.quality
    if quality is not None:
        print(
            f"{source}: {quality.num_tokens} tokens ({quality.num_bytes} bytes) in {quality.num_windows} windows of "
            f"{quality.window}, stride {quality.stride}",
            file=sys.stderr,
        )
        if quality.kl_divergence_refused is not None:
            print(f"not compared token by token: {quality.kl_divergence_refused}", file=sys.stderr)


def _rows(evaluation: Evaluation) -> Iterator[Row]:
    other = evaluation.reference_facts
    yield "weights", evaluation.facts.weights, other.weights if other else ""
    yield "cache", _cache(evaluation.facts), _cache(other) if other else ""
    if evaluation.quality is not None:
        yield from _quality_rows(evaluation.quality)
    reference = {result.name: result for result in evaluation.reference_tasks}
    for result in evaluation.tasks:
        for name, metric in result.metrics.items():
            other_metric = reference[result.name].metrics[name] if result.name in reference else None
            yield f"{result.name} {name}", _metric(metric), _metric(other_metric) if other_metric else ""


def _quality_rows(quality: Quality) -> Iterator[Row]:
    own, other = f"{quality.perplexity:.4f}", ""
    if quality.reference_perplexity is not None:
        other = f"{quality.reference_perplexity:.4f}"
    yield "perplexity", own, other
    if quality.perplexity_change is not None:
        error = 100 * (quality.perplexity_change_stderr or 0.0)
        yield "perplexity, change", f"{100 * quality.perplexity_change:+.3g}% ± {error:.2g}", ""
    bits = quality.reference_bits_per_byte
    yield "bits per byte", f"{quality.bits_per_byte:.4f}", "" if bits is None else f"{bits:.4f}"
    if quality.kl_divergence_mean is not None:
        yield "KL divergence, mean", f"{quality.kl_divergence_mean:.3g} nats", ""
        yield "KL divergence, p99", f"{quality.kl_divergence_p99:.3g} nats", ""
        yield "same best token", f"{100 * (quality.top1_agreement or 0.0):.2f}%", ""


def _cache(facts: ModelFacts) -> str:
    return f"{facts.kv_cache_dtype}, {facts.kv_bytes_per_token} B a token"


def _metric(metric: Metric) -> str:
    return f"{metric.value:.4g}" + ("" if metric.stderr is None else f" ± {metric.stderr:.2g}")
