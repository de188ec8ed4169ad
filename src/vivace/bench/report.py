"""A measurement as text: each figure with its spread, and what the machine could do beside it."""

from __future__ import annotations

from collections.abc import Iterator

from vivace.bench.benchmark import Measurement
from vivace.bench.metrics import Spread

RATES = {
    "prefill_tokens_per_s": "prefill tokens/s",
    "decode_tokens_per_s": "decode tokens/s",
    "output_tokens_per_s": "output tokens/s",
    "requests_per_s": "requests/s",
}
LATENCIES = {"ttft_ms": "TTFT ms", "itl_ms": "ITL ms", "tpot_ms": "TPOT ms", "e2el_ms": "E2EL ms"}


def lines(measurement: Measurement) -> Iterator[str]:
    """The table of one workload."""
    workload, record = measurement.workload, measurement.record()
    yield (
        f"{workload.num_requests} streams, {workload.prompt_len} tokens in, {workload.output_len} out, "
        f"{record['repeats']} repeats after {measurement.warm_up} to warm up"
    )
    yield f"  {'':18}{'median':>12}{'min':>12}{'max':>12}{'p99':>12}"
    for name, label in (RATES | LATENCIES).items():
        if record["spread"][name] is not None:
            yield _row(label, Spread(**record["spread"][name]))
    ceilings = measurement.ceilings
    if measurement.decode_gb_per_s is not None:
        limit = f" of {ceilings.read_gb_per_s:.1f} that this machine reads" if ceilings else ""
        yield f"  decode reads {measurement.decode_gb_per_s:.1f} GB/s{limit}"
    peaks = ""
    if ceilings:
        peaks = ", peaks: " + ", ".join(f"{name} {value:.0f}" for name, value in ceilings.gop_per_s.items())
    yield f"  prefill computes {measurement.prefill_gop_per_s:.1f} GOP/s{peaks}"


def _row(label: str, one: Spread) -> str:
    return f"  {label:18}{one.median:12.2f}{one.minimum:12.2f}{one.maximum:12.2f}{one.p99:12.2f}"
