"""A plan as one self-contained HTML page."""

from __future__ import annotations

from collections.abc import Sequence

from vivace.charts.axis import Axis
from vivace.charts.bars import Bar, bars
from vivace.charts.page import Section, page
from vivace.charts.table import facts, table
from vivace.plan.comparison import Candidate
from vivace.plan.deployment import TrafficShape
from vivace.plan.planned_model import PlannedModel

COLUMNS = (
    *("machine", "weights", "GB", "longest context", "sequences", "TTFT ms", "ITL ms", "tokens/s", "users"),
    *("machines", "per 1M tokens", "binds"),
)


def cells(one: Candidate) -> tuple[str, ...]:
    """A row under `COLUMNS`. Empty where nothing is served."""
    prediction, need = one.prediction, one.prediction.memory
    return (
        one.machine.name,
        one.deployment.quantization,
        f"{need.weights_bytes / 1e9:.2f}",
        f"{need.max_context:,}" if prediction.fits else "does not fit",
        f"{need.max_sequences:,}",
        _number(prediction.ttft_ms),
        _number(prediction.itl_ms),
        _number(prediction.tokens_per_s if prediction.fits else None),
        "" if prediction.users_at_slo is None else f"{prediction.users_at_slo:,}",
        "" if one.num_machines is None else str(one.num_machines),
        "" if one.cost_per_million is None else f"{one.cost_per_million:.3f}",
        prediction.binds,
    )


def traffic_words(traffic: TrafficShape) -> str:
    """The traffic in one line."""
    asked = (
        f"{traffic.concurrency} users at once"
        if traffic.rate_per_s is None
        else f"{traffic.rate_per_s:g} requests a second"
    )
    slo = f", objectives {traffic.slo}" if traffic.slo else ""
    cached = f" ({traffic.cached_prefix_len:g} cached)" if traffic.cached_prefix_len else ""
    return f"prompts of {traffic.prompt_len:g} tokens{cached}, answers of {traffic.output_len:g}, {asked}{slo}"


def html(
    model: PlannedModel, candidates: Sequence[Candidate], traffic: TrafficShape, sentences: Sequence[str]
) -> str:
    """The whole page."""
    fitting = [one for one in candidates if one.prediction.fits]
    machines = {one.machine.name: one.machine for one in candidates}.values()
    chart = bars(
        "Output tokens a second",
        [Bar(f"{one.machine.name}, {one.deployment.quantization}", one.prediction.tokens_per_s) for one in fitting],
        axis=Axis("output", "tokens/s"),
    )
    sources = [
        (
            one.name,
            one.title,
            f"{one.memory_bytes / 1e9:.0f}",
            f"{one.read_bytes_per_s / 1e9:.0f}",
            ", ".join(f"{unit} {peak / 1e12:.3g}" for unit, peak in one.operations_per_s.items()),
            one.tdp_w,
            one.source,
        )
        for one in machines
    ]
    headers = ("name", "machine", "GB", "GB/s", "dense peaks, 10^12 operations/s", "W", "source")
    assumptions = [(one.name, one.efficiency.basis) for one in machines]
    words = "".join(f"<p>{_escaped(sentence)}</p>\n" for sentence in sentences)
    return page(
        f"Plan for {model.name}",
        [
            Section("Recommendation", words),
            Section("Predictions", (chart if fitting else "") + table(COLUMNS, [cells(one) for one in candidates])),
            Section("Machines", table(headers, sources), "Figures of the makers, with their sources."),
            Section("What is assumed", facts(assumptions), "How near a step comes to the ceilings."),
        ],
        subtitle=f"{model.num_parameters / 1e9:.2f} B parameters; {traffic_words(traffic)}",
    )


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 1 else f"{value:.2f}"


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
