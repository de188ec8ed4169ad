"""Twenty thousand mutants of each format on every run; `fuzz_headers.py` does as many as one likes."""

from __future__ import annotations

import pytest
from fuzz_headers import TARGETS, fuzz

SEED = 20261122


@pytest.mark.parametrize("format_name", TARGETS)
def test_the_unmutated_samples_are_valid(format_name: str) -> None:
    target = TARGETS[format_name]
    for sample in target.samples:
        target.parse(memoryview(sample), "sample")


@pytest.mark.parametrize("format_name", TARGETS)
def test_only_model_file_errors_escape(format_name: str) -> None:
    outcome = fuzz(format_name, 20_000, SEED)
    print(f"{format_name}: seed {SEED}: {outcome}")
    assert outcome.refused > 5_000  # the mutations reach the checks
    assert outcome.accepted > 500  # and the code behind them
