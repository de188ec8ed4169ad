"""Objectives as users write them."""

from __future__ import annotations

import pytest

from vivace.bench.slo import SLO
from vivace.core.errors import ConfigError


@pytest.mark.parametrize("entries", [["ttft:500", "tpot:50.5"], ["ttft:500,tpot:50.5"], ["ttft:500 tpot:50.5"]])
def test_bounds_are_read_alone_or_together(entries: list[str]) -> None:
    assert SLO.parse(entries) == SLO(ttft=500.0, tpot=50.5)
    assert SLO.parse([str(SLO.parse(entries))]) == SLO.parse(entries)


@pytest.mark.parametrize("entry", ["ttf:500", "ttft", "ttft:", "ttft:fast", "ttft:-1", "ttft:nan", "tpot:inf"])
def test_what_is_no_objective_is_refused(entry: str) -> None:
    with pytest.raises(ConfigError):
        SLO.parse([entry])


def test_a_slip_is_told_what_was_meant() -> None:
    with pytest.raises(ConfigError, match="ttft"):
        SLO.parse(["tttf:500"])
