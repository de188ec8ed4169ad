"""A run written out by hand, its figures worked out on paper."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from vivace.bench.generator_health import GeneratorLoad
from vivace.bench.records import RequestRecord, ServerSample
from vivace.bench.server_summary import MemoryParts, counter_rises
from vivace.bench.slo import SLO
from vivace.bench.summary import summarise

# Due at 1.0, sent 0.2 s late: first token 0.5 s after it was due, then gaps of 0.1 and 0.3 s, the last with 2 tokens.
LATE = RequestRecord(
    index=0,
    intended_s=1.0,
    sent_s=1.2,
    ended_s=1.95,
    status="ok",
    prompt_len=100,
    output_len=4,
    token_s=(1.5, 1.6, 1.9, 1.9),
    queue_s=0.05,
    num_cached_tokens=25,
)
PROMPT = RequestRecord(1, 2.0, 2.0, 3.0, "ok", 100, 2, (2.1, 3.0), 0.01, 75)
REFUSED = RequestRecord(2, 2.0, 2.0, 2.01, "refused", 100, 0, error="refused with 429: overloaded")
LEFT = RequestRecord(3, 2.0, 2.0, 2.5, "cancelled", 100, 1, (2.4,))
DROPPED = RequestRecord(4, 2.0, 2.0, 2.5, "error", 100, 2, (2.2, 2.3), error="the connection was lost")
RUN = (LATE, PROMPT, REFUSED, LEFT, DROPPED)


def test_latencies_count_from_the_intended_moment() -> None:
    summary = summarise([LATE], ())
    assert summary.ttft_ms is not None
    assert summary.ttft_ms.mean.value == pytest.approx(500)
    assert summary.e2el_ms is not None
    assert summary.e2el_ms.mean.value == pytest.approx(900)
    assert summary.queue_ms is not None
    assert summary.queue_ms.mean.value == pytest.approx(50)


def test_tokens_that_come_together_part_itl_from_tpot() -> None:
    summary = summarise([LATE], ())
    assert summary.tpot_ms is not None
    assert summary.tpot_ms.mean.value == pytest.approx(400 / 3)
    assert summary.itl_ms is not None
    assert summary.itl_ms.count == 2
    assert summary.itl_ms.mean.value == pytest.approx(200)
    assert summary.tokens_per_arrival == pytest.approx(4 / 3)


def test_throughput_counts_everything_that_came() -> None:
    summary = summarise(RUN, ())
    assert summary.duration_s == pytest.approx(2.0)
    assert summary.requests_per_s == pytest.approx(1.0)
    assert summary.output_tokens_per_s == pytest.approx(9 / 2)
    assert summary.prompt_tokens_per_s == pytest.approx(100)
    assert (summary.num_ok, summary.num_refused, summary.num_cancelled, summary.num_errors) == (2, 1, 1, 1)
    assert summary.reasons == {"refused with 429": 1, "the connection was lost": 1}


@pytest.mark.parametrize(
    ("slo", "num_good"),
    [
        (SLO(ttft=499), 1),
        (SLO(ttft=501), 2),
        (SLO(tpot=200), 1),
        (SLO(itl=299), 0),
        (SLO(itl=301), 1),
        (SLO(e2el=950), 1),
        (SLO(ttft=200, tpot=200), 0),
    ],
)
def test_goodput(slo: SLO, num_good: int) -> None:
    summary = summarise(RUN, (), slo)
    assert summary.goodput_per_s == pytest.approx(num_good / 2.0)
    assert summary.goodput_share is not None
    assert summary.goodput_share.value == pytest.approx(num_good / 4)  # the one that left is nobody's fault


def test_a_slow_generator_is_named() -> None:
    summary = summarise([LATE, PROMPT], (), load=GeneratorLoad(25.0, 800.0, 0.97))
    assert summary.generator.late_share == 0.5
    assert summary.generator.send_lag_max_ms == pytest.approx(200)
    text = " ".join(summary.generator.warnings)
    assert "50.0% of the requests" in text
    assert "25 ms late" in text
    assert "97% of its core" in text
    assert "stood still for 0.80 s" in text
    assert summarise([PROMPT], (), load=GeneratorLoad(1.0, 3.0, 0.2)).generator.warnings == ()


def test_the_servers_own_account() -> None:
    counters = {
        "num_preemptions_total": 4.0,
        "prefix_cache_queries_total": 100.0,
        "prefix_cache_hits_total": 10.0,
        "spec_decode_num_draft_tokens_total": 10.0,
        "spec_decode_num_accepted_tokens_total": 5.0,
        "energy_joules_total": 100.0,
    }
    first = ServerSample(0.0, 1, 0, 0.1, 1000.0, counters)
    last = ServerSample(1.0, 3, 2, 0.5, 1500.0, {name: 2 * value for name, value in counters.items()})
    server = summarise(RUN, (first, last), memory=MemoryParts(600, 300)).server
    assert (server.running_mean, server.running_max, server.waiting_max) == (2, 3, 2)
    assert (server.kv_usage_mean, server.kv_usage_max) == (pytest.approx(0.3), 0.5)
    assert server.prefix_hit_rate == 0.5  # the records' own: 25 and 75 of 200
    assert (server.acceptance, server.num_preemptions) == (0.5, 4)
    assert (server.resident_bytes, server.peak_resident_bytes, server.other_bytes) == (1000, 1500, 600)
    assert (server.energy_joules, server.joules_per_output_token) == (100, pytest.approx(100 / 9))
    untold = [replace(record, num_cached_tokens=None) for record in RUN]
    assert summarise(untold, (first, last)).server.prefix_hit_rate == pytest.approx(0.1)


def test_a_counter_that_fell_began_anew() -> None:
    samples = [ServerSample(float(i), counters={"steps": value}) for i, value in enumerate((10.0, 14.0, 3.0, 5.0))]
    assert counter_rises(samples) == {"steps": 4 + 3 + 2}


def test_a_run_without_an_answer_has_a_summary() -> None:
    for records in ((), (REFUSED,), (LEFT,)):
        record = summarise(records, (), SLO(ttft=1)).record()
        assert record["ttft_ms"] is None
        assert "NaN" not in json.dumps(record)


def test_records_are_json() -> None:
    record = json.loads(json.dumps(summarise(RUN, (), SLO(ttft=500), load=GeneratorLoad(1, 2, 0.5)).record()))
    assert record["slo"] == "ttft:500"
    assert record["itl_ms"]["p50"] == pytest.approx(300)
    assert record["generator"]["load"]["cpu_share"] == 0.5
