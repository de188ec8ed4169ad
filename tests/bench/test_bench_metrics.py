"""Metrics of timelines written by hand."""

from __future__ import annotations

import pytest

from vivace.bench.ceilings import Ceilings, median_of
from vivace.bench.metrics import e2el_ms, itl_ms, rates, spread, tpot_ms, ttft_ms
from vivace.bench.timeline import Stream, Timeline
from vivace.bench.workload import Workload

# Two streams of 10 prompt tokens: the second gets its first token while the first already has two.
LINE = Timeline(
    Workload(num_requests=2, prompt_len=10, output_len=3),
    (Stream(0.0, [1.0, 2.0, 4.0]), Stream(0.0, [2.0, 4.0, 5.0])),
)


def test_latencies() -> None:
    assert (ttft_ms([LINE]).minimum, ttft_ms([LINE]).maximum) == (1000, 2000)
    assert itl_ms([LINE]).count == 4
    assert (itl_ms([LINE]).minimum, itl_ms([LINE]).median, itl_ms([LINE]).maximum) == (1000, 1500, 2000)
    assert tpot_ms([LINE]).median == 1500
    assert (e2el_ms([LINE]).minimum, e2el_ms([LINE]).maximum) == (4000, 5000)


def test_prefill_ends_with_the_last_first_token() -> None:
    measured = rates(LINE)
    assert measured.prefill_tokens_per_s == 20 / 2
    assert measured.decode_tokens_per_s == 3 / 3  # at 4, 4 and 5 seconds
    assert measured.output_tokens_per_s == 6 / 5
    assert measured.requests_per_s == 2 / 5


def test_one_token_each_has_no_decode() -> None:
    line = Timeline(Workload(1, 4, 1), (Stream(0.0, [0.5]),))
    assert rates(line).decode_tokens_per_s is None
    assert itl_ms([line]) is None
    assert tpot_ms([line]) is None


def test_percentiles_interpolate() -> None:
    one = spread(range(101))
    assert one is not None
    assert (one.minimum, one.median, one.p90, one.p99, one.maximum) == (0, 50, 90, 99, 100)
    assert spread([1.0, 2.0]).p90 == pytest.approx(1.9)
    assert spread([]) is None


def test_ceilings_are_medians_of_each_figure() -> None:
    probes = [Ceilings(10, {"int8": 5}), Ceilings(30, {"int8": 7}), Ceilings(20, {"int8": 6})]
    assert median_of(probes) == Ceilings(20, {"int8": 6})


def test_prompts_of_two_seeds_share_no_prefix() -> None:
    workload = Workload(num_requests=8, prompt_len=16, output_len=1)
    first, second = workload.prompts(1000, seed=1), workload.prompts(1000, seed=2)
    assert first == workload.prompts(1000, seed=1)
    assert all(len(prompt) == 16 and min(prompt) >= 0 and max(prompt) < 1000 for prompt in first)
    assert len({tuple(prompt[:4]) for prompt in first + second}) == 16
