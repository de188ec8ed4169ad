"""A plan as one self-contained HTML page."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape

from vivace.charts.axis import Axis
from vivace.charts.bars import Bar, bars
from vivace.charts.page import Section, page
from vivace.charts.table import facts, table
from vivace.charts.tiles import Tile, tiles
from vivace.plan.comparison import Candidate
from vivace.plan.machine import Machine
from vivace.plan.planned_model import PlannedModel
from vivace.plan.recommendation import chosen
from vivace.plan.row import cells, columns, gigabytes, load_words, number, size_words
from vivace.plan.workload import Load, Workload

LATENCY_LEAD = (
    "Each machine's traffic went through the engine's own scheduler in simulated time: its token budget, chunks of "
    "prompts, KV blocks, prefix cache and preemptions are the real ones; a step takes what the step-time model says."
)
MEMORY_LEAD = "GB of each part; the rest of nine tenths of a machine's memory holds keys and values."
MACHINE_LEAD = "Figures of the makers, with their sources."
TRUST_LEAD = "How near a step comes to a machine's ceilings, and where predictions were held against measurements."


def html(
    model: PlannedModel,
    candidates: Sequence[Candidate],
    workload: Workload,
    load: Load,
    sentences: Sequence[str],
) -> str:
    """The whole page."""
    machines = list({one.machine.name: one.machine for one in candidates}.values())
    served = [one for one in candidates if one.outcome is not None]
    first = chosen(candidates, load)
    sections = [] if first is None else [Section("", tiles(list(_tiles(first))))]
    sections.append(Section("Recommendation", _sentences(sentences)))
    if served:
        sections.append(Section("Speed", _charts(served, load), LATENCY_LEAD))
    sections += [
        Section("All predictions", _predictions(candidates, load)),
        Section("Memory", _memory(candidates), MEMORY_LEAD),
        Section("Machines", _machines(machines), MACHINE_LEAD),
        Section("How far to trust it", _trust(machines), TRUST_LEAD),
    ]
    subtitle = f"{size_words(model.num_parameters)} · {load_words(workload, load)}"
    return page(f"Plan for {model.name}", sections, subtitle=subtitle)


def _tiles(first: Candidate) -> Iterator[Tile]:
    found = first.outcome
    assert found is not None  # something that fits was chosen
    count = f"{first.num_machines} × " if (first.num_machines or 1) > 1 else ""
    yield Tile("Machine", f"{count}{first.machine.name}", "", f"{first.deployment.quantization} weights")
    if found.ttft_ms is not None:
        note = f"half within {number(found.ttft_ms.p50)} ms"
        yield Tile("First token, p95", number(found.ttft_ms.p95), "ms", note)
    if found.itl_ms is not None:
        note = f"half within {number(found.itl_ms.p50)} ms"
        yield Tile("Between tokens, p95", number(found.itl_ms.p95), "ms", note)
    yield Tile("Output tokens", number(first.tokens_per_s), "tok/s", f"binds: {first.binds}")


def _sentences(sentences: Sequence[str]) -> str:
    first, *others = sentences
    listed = "".join(f"<li>{escape(one)}</li>\n" for one in others)
    return f"<p><strong>{escape(first)}</strong></p>\n<ul>\n{listed}</ul>\n"


def _charts(served: Sequence[Candidate], load: Load) -> str:
    throughput = [Bar(_name(one), one.tokens_per_s, color=_color(one)) for one in served]
    first, between = Axis("time to first token, p50; whisker to p95", "ms"), Axis("between tokens, p50", "ms")
    charts = bars("Output tokens a second", throughput, axis=Axis("output", "tokens/s"))
    charts += bars("Time to first token", list(_latencies(served, "ttft_ms")), axis=first)
    charts += bars("Time between tokens", list(_latencies(served, "itl_ms")), axis=between)
    if load.slo is not None and load.rate_per_s is None:
        users = [Bar(_name(one), one.capacity.users, color=_color(one)) for one in served if one.capacity]
        charts += bars("Users that one machine serves within the objectives", users, axis=Axis("users", ""))
    return charts


def _latencies(served: Sequence[Candidate], name: str) -> Iterator[Bar]:
    for one in served:
        values = getattr(one.outcome, name)
        if values is not None:
            note = f"p95 {number(values.p95)}"
            yield Bar(_name(one), values.p50, values.p50, values.p95, note=note, color=_color(one))


def _name(one: Candidate) -> str:
    count = f"{one.num_machines} × " if (one.num_machines or 1) > 1 else ""
    return f"{count}{one.machine.name}, {one.deployment.quantization}"


def _color(one: Candidate) -> int:
    """Processors apart from GPUs."""
    return 0 if one.machine.kind == "gpu" else 1


def _predictions(candidates: Sequence[Candidate], load: Load) -> str:
    """Rows of the terminal's table, without what the next section says and columns that say nothing."""
    names, rows = columns(load), [cells(one, load) for one in candidates]
    shown = [0, 1, *(index for index in range(4, len(names)) if any(row[index] for row in rows))]
    listed = [[row[index] for index in shown] for row in rows]
    return table([names[index] for index in shown], listed, notes=_legend(load))


def _legend(load: Load) -> str:
    words = "TTFT: time to first token. ITL: gap between two tokens of a stream. "
    if load.slo is not None:
        words += "Most users or requests: of one machine within the objectives. "
    return words + "Per 1M: price of a million output tokens, where a price an hour was given."


def _memory(candidates: Sequence[Candidate]) -> str:
    headers = (
        *("machine", "weights", "weights GB", "activations", "runtime", "keys, values"),
        *("kB a token", "requests at once", "longest context"),
    )
    rows = []
    for one in candidates:
        need = one.prediction.memory
        parts = (need.weights_bytes + need.draft_bytes, need.activation_bytes, need.runtime_bytes, need.kv_pool_bytes)
        context = f"{need.max_context:,}" if need.fits else None
        token = f"{need.kv_bytes_per_token / 1e3:.1f}"
        fit = f"{need.max_sequences:,}" if need.fits else None
        rows.append((one.machine.name, one.deployment.quantization, *map(gigabytes, parts), token, fit, context))
    return table(headers, rows)


def _machines(machines: Sequence[Machine]) -> str:
    rows = [
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
    return table(headers, rows)


def _trust(machines: Sequence[Machine]) -> str:
    rows = [(one.name, one.efficiency.basis) for one in machines]
    rows += [(f"{one.name}, checked", one.efficiency.checked) for one in machines if one.efficiency.checked]
    return facts(rows)
