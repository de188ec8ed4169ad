"""Ratios of two servers, worked out on paper."""

from __future__ import annotations

import pytest

from vivace.bench.comparison import comparison_lines, ratios
from vivace.bench.records import RequestRecord
from vivace.bench.summary import Summary, summarise


def run(ttft_s: float, gap_s: float) -> Summary:
    """Ten requests of five tokens, one a second."""
    records = []
    for index in range(10):
        tokens = tuple(index + ttft_s + gap_s * number for number in range(5))
        records.append(RequestRecord(index, float(index), float(index), tokens[-1], "ok", 8, 5, tokens))
    return summarise(records, ())


def test_ratios_and_their_spread() -> None:
    rounds = [(run(0.1, 0.02), run(0.05, 0.02)), (run(0.1, 0.02), run(0.06, 0.03)), (run(0.2, 0.02), run(0.08, 0.01))]
    found = {one.figure: one for one in ratios(rounds)}
    ttft = found["ttft_ms p50"]
    assert (ttft.first, ttft.second) == (pytest.approx(100), pytest.approx(60))
    assert (ttft.ratio, ttft.low, ttft.high) == (pytest.approx(0.5), pytest.approx(0.4), pytest.approx(0.6))
    assert ttft.is_clear
    tpot = found["tpot_ms p50"]
    assert (tpot.low, tpot.high) == (pytest.approx(0.5), pytest.approx(1.5))
    assert not tpot.is_clear
    assert "goodput_per_s" not in found


def test_the_table_says_who_is_better_only_where_all_rounds_agree() -> None:
    one_round = [(run(0.1, 0.02), run(0.05, 0.02))]
    lines = list(comparison_lines(ratios(2 * one_round), ("one", "two")))
    assert lines[:2] == ["A: one", "B: two"]
    assert any("ttft_ms p50" in one and one.endswith("B is better") for one in lines)
    assert any("output_tokens_per_s" in one and one.endswith("B is better") for one in lines)


def test_one_round_agrees_with_itself_and_says_nothing() -> None:
    found = ratios([(run(0.1, 0.02), run(0.05, 0.02))])
    assert not any(one.is_clear for one in found)
    assert all(line.endswith("no clear difference") for line in list(comparison_lines(found, ("one", "two")))[3:])


def test_nothing_measured() -> None:
    assert ratios([]) == []
