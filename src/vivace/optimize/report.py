"""The answer as one HTML file: what it costs, what each technique brought, what was tried, what was written."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape

from vivace.charts.axis import Axis
from vivace.charts.page import Section, page
from vivace.charts.scatter import Point, scatter
from vivace.charts.table import facts, table
from vivace.charts.tiles import Tile, tiles
from vivace.charts.waterfall import Stage, waterfall
from vivace.optimize.answer import Answer, Result
from vivace.optimize.candidate import CACHE_WORDS, WEIGHT_WORDS, speculation_words
from vivace.optimize.cautions import cautions
from vivace.optimize.interval import Interval
from vivace.optimize.ladder import Rung
from vivace.optimize.objective import Objective

THROUGHPUT = Axis("Throughput", "tok/s")
SPEED = Axis("Throughput", "tok/s", from_zero=False)
LATENCY = Axis("One user's whole answer", "ms", from_zero=False)
MEMORY = Axis("Weights and KV pool", "MiB")
MOST_NAMES = 3


def report_html(answer: Answer, configuration: str) -> str:
    """`configuration` is the text of vivace.toml. No script, nothing from elsewhere."""
    extra = answer.extra
    subtitle = f"{extra.get('machine', '')} · {extra.get('workload', '')} · {answer.seconds:.0f} s of measuring"
    sections = [
        Section("", tiles(list(_tiles(answer))) + "".join(f"<p>{escape(one)}</p>\n" for one in cautions(answer))),
        Section("The answer", _answer(answer), _lead(answer)),
        Section("What each technique brings here", _ladder(answer), LADDER_LEAD),
        Section("Speed, latency and memory", _fronts(answer), FRONT_LEAD),
        Section("What is often claimed", _claims(answer), CLAIMS_LEAD),
        Section("Everything that was measured", _results(answer), RESULTS_LEAD),
        Section("What was left out, and why", _left_out(answer)),
        Section("vivace.toml", f'<pre tabindex="0"><code>{escape(configuration)}</code></pre>\n'),
    ]
    return page(f"Optimised: {extra.get('model', 'model')}", sections, subtitle=subtitle)


LADDER_LEAD = (
    "From the naive baseline (weights as wide as they come, one request after another, nothing kept) upwards. Every "
    "technique is measured alone and on top of those before it; speed is that of all users at once. What is compared "
    "ran together, in turns of milliseconds. Whiskers and ± are 95% intervals over such heats."
)
FRONT_LEAD = (
    "Each point is a configuration that ran the whole workload and passed the bars. The line joins those that no "
    "other one beats in both measures. Axes need not begin at zero."
)
CLAIMS_LEAD = "Rules of thumb about these techniques, and what they come to with this model on this machine."
RESULTS_LEAD = (
    "Whole runs, best first. A name is weights, cache, sequences at once, tokens a step / a block, threads (2t). "
    "Figures are scaled by a baseline that ran in between, so that a machine that slows down does not decide; tok/s "
    "and the order follow from the heats that configurations ran together. Forecasts are the planner's, in line with "
    "the ladder's measurements."
)


def _tiles(answer: Answer) -> Iterator[Tile]:
    measured, naive = answer.pick.measured, answer.naive.measured
    offered = answer.objective.offered_per_s
    if answer.objective.name == "goodput":
        rate, share = measured.goodput_per_s or 0.0, measured.good_share or 0.0
        note = f"{100 * share:.0f}% keep the SLO; naive: {naive.goodput_per_s or 0.0:,.1f}"
        yield Tile("Goodput", f"{rate:,.1f}", "req/s", note if offered is None else f"of {offered:g} offered")
    elif offered is not None and measured.offered_latency_ms is not None:
        yield Tile("An answer", f"{measured.offered_latency_ms:,.1f}", "ms", f"at {offered:g} requests a second")
    yield Tile("Throughput", f"{answer.speedup.value:.1f}×", "naive", _range(answer.speedup))
    yield Tile("One user", f"{answer.quickening.value:.1f}×", "faster", _range(answer.quickening))
    yield Tile(
        "Output tokens", f"{answer.pick.tokens_per_s:,.0f}", "tok/s", f"naive: {answer.naive.tokens_per_s:,.0f}"
    )
    weights = measured.weight_bytes / 2**20
    yield Tile("Weights", f"{weights:,.1f}", "MiB", f"naive: {naive.weight_bytes / 2**20:,.1f} MiB")
    if answer.pick.quality is not None:
        quality = answer.pick.quality
        note = f"perplexity {100 * quality.perplexity_change:+.2f}%"
        yield Tile("KL divergence", f"{quality.kl:.2g}", "nats", note)


def _range(interval: Interval) -> str:
    if interval.low is None or interval.high is None:
        return ""
    return f"95%: {interval.low:.1f} to {interval.high:.1f}"


def _lead(answer: Answer) -> str:
    words = f"Of all that keep every bar, the best by {answer.objective.words}: {answer.pick.candidate.words}."
    if answer.runner_up is not None:
        words += f" The runner-up, {answer.runner_up.candidate.words}, is {answer.why_not}."
    return words


def _answer(answer: Answer) -> str:
    extra = answer.extra
    rows: list[tuple[str, object]] = [
        ("What binds now", answer.binds or None),
        ("What would help next", answer.next_step or None),
        ("How sure", _certainty(answer)),
        ("Bar on quality", extra.get("quality_bar")),
        ("Objectives", extra.get("slo")),
        (
            "Forecast",
            f"{answer.num_forecast:,} candidates, {len(answer.results)} measured whole, {answer.num_partial} in part",
        ),
        ("Forecasts' median error", _forecast_words(answer)),
        ("Discarded for drift", f"{answer.num_discarded} measurements"),
    ]
    chosen = [answer.pick, *([answer.runner_up] if answer.runner_up else []), answer.naive]
    names = ["Pick", *(["Runner-up"] if answer.runner_up else []), "Naive"]
    compared = table(
        ["", *names],
        [(row[0], *row[1:]) for row in zip(*_columns(chosen, answer.objective), strict=True)],
        caption="The pick beside the runner-up and the naive baseline",
    )
    return facts([row for row in rows if row[1] is not None]) + compared


def _certainty(answer: Answer) -> str | None:
    if answer.lead is None or answer.lead.count < 2:
        return None
    return f"the pick has {answer.lead} times the runner-up's score, in {answer.lead.count} heats that both ran"


def _forecast_words(answer: Answer) -> str | None:
    if answer.forecast_errors is None:
        return None
    before, after = answer.forecast_errors
    return f"{100 * before:.0f}% as planned, {100 * after:.0f}% brought in line with the ladder"


def _columns(results: list[Result], objective: Objective) -> Iterator[list[str]]:
    at_rates = [objective.column(one.measured) for one in results]
    yield [
        "weights",
        "cache",
        "speculation",
        "at once",
        "tok/s",
        "TTFT ms",
        "TPOT ms",
        *([at_rates[0][0]] if at_rates[0] else []),
        "one user ms",
        "MiB",
        "KL, nats",
    ]
    for one, column in zip(results, at_rates, strict=True):
        measured = one.measured
        yield [
            f"{one.candidate.quantization}: {WEIGHT_WORDS[one.candidate.quantization]}",
            CACHE_WORDS[one.candidate.kv_cache_dtype],
            speculation_words(one.candidate.speculation),
            str(one.candidate.max_num_seqs),
            f"{one.tokens_per_s:,.0f}",
            f"{measured.ttft_ms:,.1f}",
            f"{measured.tpot_ms:.3g}",
            *([column[1]] if column else []),
            f"{measured.single_latency_ms:,.1f}",
            f"{measured.memory_bytes / 2**20:,.1f}",
            "–" if one.quality is None else f"{one.quality.kl:.2g}",
        ]


def _ladder(answer: Answer) -> str:
    naive = answer.naive.tokens_per_s
    stages, height = [Stage("naive", naive)], naive
    for rung in answer.rungs:
        if rung.measured is not None:
            stages.append(_stage(rung, naive, height))
            height = stages[-1].value if rung.kept else height
    if answer.pick.candidate != answer.top:
        low, high = answer.speedup.low, answer.speedup.high
        stages.append(
            Stage(
                "search: the pick",
                answer.speedup.value * naive,
                low=None if low is None else low * naive,
                high=None if high is None else high * naive,
            )
        )
    return waterfall("Throughput, step by step", stages, axis=THROUGHPUT) + _gains(answer) + _costs(answer)


def _gains(answer: Answer) -> str:
    rows = [
        (
            rung.name,
            _times(rung.alone_speed),
            _times(rung.top_speed),
            _times(rung.total_speed),
            _times(rung.top_latency),
        )
        for rung in answer.rungs
    ]
    headers = ["technique", "alone", "on top", "in all", "one user, on top"]
    return table(headers, rows, caption="Times the throughput, and times as fast for one user's answer")


def _costs(answer: Answer) -> str:
    rows = [
        (
            rung.name,
            None if rung.measured is None else f"{rung.measured.weight_bytes / 2**20:,.1f}",
            None if rung.measured is None else f"{rung.measured.kv_bytes_per_token:,}",
            None if rung.quality is None else f"{rung.quality.kl:.2g}",
            None if rung.quality is None else f"{100 * rung.quality.perplexity_change:+.2f}%",
            "kept" if rung.kept else rung.why_not,
        )
        for rung in answer.rungs
    ]
    headers = ["technique", "weights, MiB", "cache, B a token", "KL, nats", "perplexity", "verdict"]
    return table(headers, rows, caption="What it costs on top of the others, and whether it stays")


def _stage(rung: Rung, naive: float, below: float) -> Stage:
    """As high as all together were beside the baseline in several heats. One heat alone may contradict what the next
    one says of a step: then the step stands on those below it, as the table has it."""
    assert rung.measured is not None
    total, step = rung.total_speed, rung.top_speed
    if total is not None and total.low is not None and total.high is not None:
        low, high = naive * total.low, naive * total.high
        return Stage(rung.name, naive * total.value, kept=rung.kept, low=low, high=high)
    return Stage(rung.name, rung.measured.tokens_per_s if step is None else below * step.value, kept=rung.kept)


def _fronts(answer: Answer) -> str:
    accepted = [one for one in answer.results if not one.refusal and one.candidate.batching == "continuous"]
    points = [_point(answer, one, one.measured.single_latency_ms) for one in accepted]
    by_memory = [_point(answer, one, one.measured.memory_bytes / 2**20) for one in accepted]
    return scatter(
        "Throughput of all against one user's answer", points, x=LATENCY, y=SPEED, x_better="lower"
    ) + scatter("Throughput against memory", by_memory, x=MEMORY, y=SPEED, x_better="lower")


def _point(answer: Answer, one: Result, x: float) -> Point:
    candidate = one.candidate
    return Point(candidate.short, x, one.tokens_per_s, note=candidate.words, chosen=one is answer.pick)


def _claims(answer: Answer) -> str:
    rows = [
        (one.words, one.claimed, None if one.measured is None else f"{one.measured:.2f}x", one.verdict, one.remark)
        for one in answer.claims
    ]
    return table(["claim", "claimed", "measured", "verdict", ""], rows)


def _results(answer: Answer) -> str:
    rows = []
    for one in sorted(answer.results, key=lambda result: -result.score):
        error = one.prediction_error
        rows.append(
            (
                one.candidate.short,
                f"{one.tokens_per_s:,.0f}",
                None if one.forecast is None else f"{one.forecast.tokens_per_s:,.0f}",
                None if error is None else f"{100 * error:+.0f}%",
                f"{one.measured.single_latency_ms:,.1f}",
                f"{one.measured.memory_bytes / 2**20:,.0f}",
                None if one.quality is None else f"{one.quality.kl:.2g}",
                "refused" if one.refusal else "front" if one.is_on_front else "",
            )
        )
    headers = [
        "weights, cache, at once, step/block",
        "tok/s",
        "forecast",
        "error",
        "1 user, ms",
        "MiB",
        "KL",
        "",
    ]
    return table(headers, rows)


def _left_out(answer: Answer) -> str:
    """By reason, those that share one together."""
    refused = [(one.candidate.short, "gate", one.refusal) for one in answer.results if one.refusal]
    dropped = [(one.candidate.short, one.stage, one.reason) for one in answer.dropped]
    excluded = [(f"{axis}: {value}", "space", reason) for axis, value, reason in answer.exclusions]
    together: dict[tuple[str, str], list[str]] = {}
    for name, stage, reason in (*refused, *dropped, *excluded):
        together.setdefault((stage, reason), []).append(name)
    rows = [(_some(names), stage, reason) for (stage, reason), names in together.items()]
    return table(["what", "stage", "reason"], rows) if rows else "<p>Nothing.</p>\n"


def _some(names: list[str]) -> str:
    if len(names) <= MOST_NAMES:
        return "; ".join(names)
    return f"{'; '.join(names[:MOST_NAMES])}; and {len(names) - MOST_NAMES} more"


def _times(interval: Interval | None) -> str:
    """The value and half of its interval."""
    if interval is None:
        return "–"
    if interval.low is None or interval.high is None:
        return f"{interval.value:.2f}×"
    return f"{interval.value:.2f}× ±{(interval.high - interval.low) / 2:.2f}"
