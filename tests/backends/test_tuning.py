"""Tuning of products: the file is trusted for nothing, trials choose what pays, and no choice changes a bit."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from vivace.backends.cpu import tuning
from vivace.backends.cpu.backend import LAYOUTS, CpuBackend
from vivace.backends.cpu.tuning import NO_ROWS, LinearTuner, LinearTuning, choose, read_tuning, tuning_path
from vivace.formats.cache_directory import CACHE_VARIABLE
from vivace.formats.tensor import StoredTensor
from vivace.ops.program import Weight

USUAL = LinearTuning(16 << 10, 3, 384 << 10, 256 << 10)


def int4_weight(backend: CpuBackend, rows: int, columns: int) -> Weight:
    rng = np.random.default_rng(3)
    stored = rng.integers(0, 64, (rows, columns // 32 * 18), np.uint8)
    return backend.pack("w", StoredTensor("w", "q4_0", (rows, columns), stored))


def product(backend: CpuBackend, weight: Weight, num_rows: int) -> np.ndarray:
    rows, columns = weight.shape
    x = np.random.default_rng(5).normal(size=(num_rows, columns)).astype(np.float32)
    out = np.empty((num_rows, rows), np.float32)
    backend.device.linear(weight.data, x, out)
    return out


def test_the_usual_choice_stands_unless_another_pays() -> None:
    assert choose(lambda tuning, _rows: 1.0 if tuning == USUAL else 0.99, USUAL) == USUAL


@pytest.mark.parametrize(("least", "chosen"), [(1, 2), (2, 2), (3, 3), (4, 4), (8, 8), (9, NO_ROWS)])
def test_what_pays_is_chosen(least: int, chosen: int) -> None:
    """Fetching ahead, from 32 KiB, pays from `least` rows on."""

    def seconds(tuning: LinearTuning, rows: int) -> float:
        if rows == 64:
            return 1.0 if tuning.weight_panel_bytes == 640 << 10 else 2.0
        fetches = rows >= tuning.min_fetch_rows
        return (1.0 if fetches == (rows >= least) else 2.0) + abs(tuning.fetch_distance - (32 << 10)) / (64 << 10)

    assert choose(seconds, USUAL) == LinearTuning(32 << 10, chosen, 640 << 10, 128 << 10)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff",
        b"[1]",
        b"3",
        b"{}x",
        b'{"fetch_distance": -1}',
        b'{"fetch_distance": 1.5}',
        b'{"row_panel_bytes": 0}',
        b'{"min_fetch_rows": true}',
        b'{"weight_panel_bytes": 99999999999999999999}',
        b'{"unknown": 1}',
        b"[" * 100_000,
    ],
)
def test_a_broken_file_is_no_measurement(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "tuning.json"
    path.write_bytes(content)
    assert read_tuning(path) is None


def test_a_measurement_is_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path))
    monkeypatch.setattr(tuning, "MIN_TUNED_BYTES", 0)
    backend = CpuBackend(2)
    weight = int4_weight(backend, 64, 128)
    LinearTuner(backend.device, LAYOUTS).tune([weight, weight])
    path = tuning_path(backend.device, "q4_0")
    assert read_tuning(path) is not None
    assert [file.name for file in path.parent.iterdir()] == [path.name]

    kept = {"fetch_distance": 64, "min_fetch_rows": 2, "weight_panel_bytes": 1, "row_panel_bytes": 1}
    path.write_text(json.dumps(kept))
    LinearTuner(backend.device, LAYOUTS).tune([weight])
    assert json.loads(path.read_text()) == kept


def test_nothing_is_measured_where_nothing_can_be_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "file"))
    monkeypatch.setattr(tuning, "MIN_TUNED_BYTES", 0)
    monkeypatch.setattr(tuning, "choose", lambda _trial: pytest.fail("measured"))
    backend = CpuBackend(1)
    LinearTuner(backend.device, LAYOUTS).tune([int4_weight(backend, 16, 64)])


def test_small_models_are_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path))
    backend = CpuBackend(1)
    LinearTuner(backend.device, LAYOUTS).tune([int4_weight(backend, 16, 64)])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("num_rows", [1, 2, 8, 40])
def test_no_choice_changes_a_bit(num_rows: int) -> None:
    backend = CpuBackend(2)
    weight = int4_weight(backend, 200, 256)
    expected = product(backend, weight, num_rows)
    number = LAYOUTS.index("q4_0")
    usual = backend.device.linear_tuning(number)
    try:
        for choice in [(0, 1, 1, 1), (64, NO_ROWS, 1 << 30, 1 << 30), (1 << 20, 1, 9000, 70_000)]:
            backend.device.tune_linear(number, *choice)
            np.testing.assert_array_equal(product(backend, weight, num_rows), expected)
    finally:
        backend.device.tune_linear(number, *usual)


@pytest.mark.parametrize("choice", [(-1, 1, 1, 1), (0, 0, 1, 1), (0, 1, 0, 1), (0, 1, 1, 0)])
def test_sizes_below_the_least_are_refused(choice: tuple[int, int, int, int]) -> None:
    with pytest.raises(ValueError, match="least"):
        CpuBackend(1).device.tune_linear(4, *choice)
