"""A candidate in one row, as terminal and page show it."""

from __future__ import annotations

from vivace.plan.comparison import Candidate
from vivace.plan.outcome import Percentiles
from vivace.plan.workload import Load, Workload

COLUMNS = (
    *("machine", "weights", "GB", "requests fit", "TTFT ms p50 / p95", "ITL ms p50 / p95", "tokens/s", "most users"),
    *("machines", "per 1M", "binds"),
)
RATE_COLUMN = "most req/s"  # in place of users, in an open loop
MACHINES = COLUMNS.index("machines")


def columns(load: Load) -> tuple[str, ...]:
    """Headings of `cells`."""
    return tuple(RATE_COLUMN if name == "most users" and load.rate_per_s else name for name in COLUMNS)


def cells(one: Candidate, load: Load) -> tuple[str, ...]:
    """A row under `columns`. Empty where nothing is served, or nobody asked."""
    need, found = one.prediction.memory, one.outcome
    ttft, itl = (None, None) if found is None else (found.ttft_ms, found.itl_ms)
    return (
        one.machine.name,
        one.deployment.quantization,
        gigabytes(need.weights_bytes),
        "no" if found is None else f"{need.max_sequences:,}",
        _pair(ttft),
        _pair(itl),
        "" if found is None else number(one.tokens_per_s),
        _capacity(one, load),
        _machines(one),
        "" if one.cost_per_million is None else f"{one.cost_per_million:.2f}",
        one.binds,
    )


def load_words(workload: Workload, load: Load) -> str:
    """The traffic in one line."""
    shape = workload.shape(load)
    cached = f", of which {shape.cached_prefix_len:.0f} were computed before" if shape.cached_prefix_len >= 1 else ""
    return (
        f"{workload.name}: prompts of {shape.prompt_len:.0f} tokens on average{cached}, answers of "
        f"{shape.output_len:.0f}; {load.words()}"
    )


def size_words(num_parameters: int) -> str:
    """As models are spoken of: 8.03 B parameters, 3.41 M parameters."""
    unit, name = (1e9, "B") if num_parameters >= 1e9 else (1e6, "M")
    return f"{num_parameters / unit:.3g} {name} parameters"


def gigabytes(num_bytes: float) -> str:
    """With two figures at least."""
    value = num_bytes / 1e9
    return f"{value:.2f}" if value >= 0.1 else f"{value:.2g}"


def number(value: float) -> str:
    """Three figures or so."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 1 else f"{value:.2f}"


def _pair(values: Percentiles | None) -> str:
    return "" if values is None else f"{number(values.p50)} / {number(values.p95)}"


def _capacity(one: Candidate, load: Load) -> str:
    if one.capacity is None or one.outcome is None or load.slo is None:
        return ""
    return number(one.capacity.rate_per_s) if load.rate_per_s else f"{one.capacity.users:,.0f}"


def _machines(one: Candidate) -> str:
    if one.outcome is None:
        return ""
    return "never" if one.num_machines is None else f"{one.num_machines:,}"
