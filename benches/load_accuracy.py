"""Does the load generator find what a server with known latencies did, within 1 ms or 1%, and where does it end?

    python benches/load_accuracy.py [--streams 1,16,64,128,256,512] [--tokens N]

Each level runs so many streams at once against benches/mock_server.py, whose processes' clock is the same: what it
really sent when is the truth. The same summary is made of both sides and compared, figure by figure. "together": all
streams begin at once and get their tokens at the same moments, as from a server that batches; else they begin within
a second. Prints a table and one line of JSON. Whatever else runs on the machine is in the figures; `chrt -f 5` before
the command keeps it out, but for the kernel's own pauses of real-time tasks.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import uvloop

from vivace.bench.load.address import Address
from vivace.bench.load.run import RunReport, run_traffic
from vivace.bench.load.target import Target
from vivace.bench.records import RequestRecord
from vivace.bench.statistics import Distribution, Estimate
from vivace.bench.summary import Summary, summarise
from vivace.bench.traffic.request import Traffic, TrafficRequest

TTFT_S, GAP_S, SPREAD_S, CHUNK = 0.150, 0.050, 1.0, 2
LIMIT_MS, LIMIT_SHARE = 1.0, 0.01
FIGURES = ("mean", "p50", "p90", "p99", "max")


def traffic(num_streams: int, num_tokens: int, *, together: bool) -> Traffic:
    requests = []
    for index in range(num_streams):
        script = json.dumps({"ttft": TTFT_S, "gap": GAP_S, "chunk": CHUNK, "name": str(index)})
        arrival_s = 0.0 if together else SPREAD_S * index / num_streams
        requests.append(TrafficRequest(index, 7, num_tokens, text=script, arrival_s=arrival_s))
    return Traffic("accuracy", tuple(requests))


def true_records(truths: Sequence[dict[str, Any]]) -> list[RequestRecord]:
    """What the server knows, as records: a request is due when it arrives."""
    records = []
    for truth in truths:
        token_s = tuple(
            when for when, number in zip(truth["sent"], truth["tokens"], strict=True) for _ in range(number)
        )
        ended_s = token_s[-1]
        arrived_s = truth["arrived"]
        records.append(RequestRecord(0, arrived_s, arrived_s, ended_s, "ok", 7, len(token_s), token_s))
    return records


def figures(summary: Summary) -> Iterator[tuple[str, float]]:
    """Latencies in ms, and rates."""
    for name in ("ttft_ms", "itl_ms", "tpot_ms", "e2el_ms"):
        found: Distribution | None = getattr(summary, name)
        assert found is not None
        for figure in FIGURES:
            value = getattr(found, figure)
            yield f"{name} {figure}", value.value if isinstance(value, Estimate) else value
    yield "output_tokens_per_s", summary.output_tokens_per_s


def level(url: str, num_streams: int, num_tokens: int, *, together: bool) -> dict[str, Any]:
    records: list[RequestRecord] = []
    target = Target(Address.parse(url))
    sent = traffic(num_streams, num_tokens, together=together)
    report: RunReport = uvloop.run(run_traffic(sent, target, on_record=records.append, on_sample=lambda _: None))
    with urllib.request.urlopen(f"{url}/truth", timeout=60) as answer:
        truths = [truth for truth in json.load(answer) if truth["name"]][-num_streams:]
    assert len(records) == len(truths) == num_streams
    found = summarise(records, (), load=report.load)
    pairs = [
        (name, value, true)
        for (name, value), (_, true) in zip(figures(found), figures(summarise(true_records(truths), ())), strict=True)
    ]
    worst = max(pairs, key=lambda pair: badness(pair[1], pair[2]))
    events_per_s = num_streams / GAP_S
    return {
        "streams": num_streams,
        "together": together,
        "events_per_s": round(events_per_s),
        "worst_figure": worst[0],
        "found": round(worst[1], 3),
        "true": round(worst[2], 3),
        "worst_error": round(badness(worst[1], worst[2]), 3),
        "outside": [name for name, value, true in pairs if badness(value, true) > 1],
        "ttft_p50_error_ms": round(difference(pairs, "ttft_ms p50"), 3),
        "itl_p50_error_ms": round(difference(pairs, "itl_ms p50"), 3),
        "itl_p99_error_ms": round(difference(pairs, "itl_ms p99"), 3),
        "e2el_p50_error_ms": round(difference(pairs, "e2el_ms p50"), 3),
        "cpu_share": round(report.load.cpu_share, 2),
        "loop_lag_p99_ms": round(report.load.loop_lag_p99_ms, 2),
        "send_lag_p50_ms": round(found.generator.send_lag_p50_ms or 0.0, 3),
        "send_lag_max_ms": round(found.generator.send_lag_max_ms or 0.0, 3),
        "warnings": len(found.generator.warnings),
    }


def badness(value: float, true: float) -> float:
    """1: as far off as allowed."""
    return abs(value - true) / max(LIMIT_MS, LIMIT_SHARE * abs(true))


def difference(pairs: Sequence[tuple[str, float, float]], name: str) -> float:
    return next(value - true for found, value, true in pairs if found == name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", default="1,16,64,128,256,512")
    parser.add_argument("--tokens", type=int, default=40)
    arguments = parser.parse_args()
    program = Path(__file__).with_name("mock_server.py")
    rows = []
    with subprocess.Popen([sys.executable, str(program)], stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            url = f"http://127.0.0.1:{int(server.stdout.readline())}"
            level(url, 4, 4, together=True)  # warm
            for num_streams in map(int, arguments.streams.split(",")):
                for together in (False, True):
                    rows.append(level(url, num_streams, arguments.tokens, together=together))
                    print(*(f"{name} {value}" for name, value in rows[-1].items()), sep=", ")
        finally:
            server.kill()
    print(json.dumps({"levels": rows}))


if __name__ == "__main__":
    main()
