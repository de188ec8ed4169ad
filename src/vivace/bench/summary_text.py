"""A summary as lines for a terminal."""

from __future__ import annotations

from collections.abc import Iterator

from vivace.bench.server_summary import ServerSummary
from vivace.bench.statistics import Distribution, Estimate
from vivace.bench.summary import LATENCIES, Summary

NAMES = {"ttft_ms": "TTFT", "itl_ms": "ITL", "tpot_ms": "TPOT", "e2el_ms": "E2EL", "queue_ms": "queue"}
COLUMNS = ("mean", "p50", "p90", "p95", "p99", "max")


def summary_lines(summary: Summary) -> Iterator[str]:
    """Warnings first: figures of a generator that was too slow are no figures of the server."""
    yield from (f"WARNING: {warning}" for warning in summary.generator.warnings)
    yield _counts(summary)
    yield from (f"  {number} x {reason}" for reason, number in summary.reasons.items())
    yield (
        f"throughput: {summary.requests_per_s:.2f} requests/s, {summary.output_tokens_per_s:.1f} output tokens/s, "
        f"{summary.prompt_tokens_per_s:.1f} prompt tokens/s"
    )
    if summary.goodput_share is not None and summary.goodput_per_s is not None:
        yield (
            f"goodput ({summary.slo}): {summary.goodput_per_s:.2f} requests/s, "
            f"{_percent(summary.goodput_share)} of the requests"
        )
    yield from _latency_lines(summary)
    if (summary.tokens_per_arrival or 1) > 1.005:
        yield f"{summary.tokens_per_arrival:.2f} tokens came together: ITL is between arrivals, TPOT for each token"
    yield from _server_lines(summary.server)
    generator = summary.generator
    if generator.send_lag_p99_ms is not None:
        busy = "" if generator.load is None else f", {generator.load.cpu_share:.0%} of a core"
        yield f"load generator: sent {generator.send_lag_p99_ms:.1f} ms late (p99){busy}"


def _counts(summary: Summary) -> str:
    parts = [f"{summary.num_ok} of {summary.num_requests} requests answered in {summary.duration_s:.1f} s"]
    others = {"refused": summary.num_refused, "cancelled": summary.num_cancelled, "failed": summary.num_errors}
    return ", ".join([*parts, *(f"{number} {name}" for name, number in others.items() if number)])


def _latency_lines(summary: Summary) -> Iterator[str]:
    yield f"{'ms':>6}  " + " ".join(f"{name:>9}" for name in COLUMNS) + "   95% interval of p50 and p99"
    for name in LATENCIES:
        found: Distribution | None = getattr(summary, name)
        if found is None:
            continue
        values = [getattr(found, column) for column in COLUMNS]
        shown = " ".join(f"{value.value if isinstance(value, Estimate) else value:>9.2f}" for value in values)
        yield f"{NAMES[name]:>6}  {shown}   {_interval(found.p50)}  {_interval(found.p99)}"


def _interval(estimate: Estimate) -> str:
    if estimate.low is None or estimate.high is None:
        return "(too few requests)"
    return f"{estimate.low:.1f} to {estimate.high:.1f}"


def _percent(estimate: Estimate) -> str:
    if estimate.low is None or estimate.high is None:
        return f"{estimate.value:.1%}"
    return f"{estimate.value:.1%} ({estimate.low:.1%} to {estimate.high:.1%})"


def _server_lines(server: ServerSummary) -> Iterator[str]:
    shown = []
    if server.running_max is not None:
        shown.append(f"running {server.running_mean or 0:.1f} (at most {server.running_max:.0f})")
    if server.waiting_max is not None:
        shown.append(f"waiting at most {server.waiting_max:.0f}")
    if server.kv_usage_max is not None:
        shown.append(f"KV cache at most {server.kv_usage_max:.0%}")
    if server.prefix_hit_rate is not None:
        shown.append(f"prefix hits {server.prefix_hit_rate:.0%}")
    if server.acceptance is not None:
        shown.append(f"guesses that stood {server.acceptance:.0%}")
    if server.num_preemptions:
        shown.append(f"{server.num_preemptions:.0f} preemptions")
    if shown:
        yield "server: " + ", ".join(shown)
    if server.peak_resident_bytes is not None:
        weights = "" if server.weights_bytes is None else f", weights {_mib(server.weights_bytes)}"
        kv = "" if server.kv_bytes is None else f", KV cache {_mib(server.kv_bytes)}"
        yield f"memory: {_mib(server.peak_resident_bytes)} at most{weights}{kv}"
    if server.energy_joules is not None:
        per_token = server.joules_per_output_token
        each = "" if per_token is None else f", {per_token:.3f} J an output token"
        yield f"energy of the processor: {server.energy_joules:.1f} J{each}"


def _mib(num_bytes: float) -> str:
    return f"{num_bytes / 2**20:.0f} MiB"
