"""Calibration's layers against transformers, for every family: what they observe is what the model computes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy_model import model_log_probabilities
from tiny_checkpoints import CASES, Case, make_model, prompt_tokens, save, true_logits

from vivace.quantize import decoder_layer, layer_pass

TOLERANCE = 1e-4


@pytest.mark.parametrize("case", CASES, ids=str)
def test_every_family_computes_what_transformers_does(case: Case, tmp_path: Path) -> None:
    model = make_model(case)
    save(model, tmp_path)
    windows = np.stack([prompt_tokens(seed) for seed in (1, 2)])
    actual = model_log_probabilities(tmp_path, windows).reshape(2, windows.shape[1], -1)
    for ours, tokens in zip(actual, windows, strict=True):
        expected = torch.log_softmax(torch.asarray(true_logits(model, tokens)), -1).numpy()
        assert np.abs(ours - expected).max() < TOLERANCE


@pytest.mark.parametrize("name", ["mistral-window", "gemma2"])
def test_blocks_of_queries_and_chunks_of_windows_change_nothing(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(make_model(next(case for case in CASES if case.name == name)), tmp_path)
    windows = np.stack([prompt_tokens(seed) for seed in (1, 2, 3)])
    whole = model_log_probabilities(tmp_path, windows)
    monkeypatch.setattr(decoder_layer, "QUERIES_AT_ONCE", 7)
    monkeypatch.setattr(layer_pass, "TOKENS_AT_ONCE", 30)
    np.testing.assert_allclose(model_log_probabilities(tmp_path, windows), whole, atol=1e-5)


def test_which_keys_a_query_does_not_see() -> None:
    rows = decoder_layer._unseen(slice(2, 5), slice(0, 5), None)
    np.testing.assert_array_equal(rows, [[0, 0, 0, 1, 1], [0, 0, 0, 0, 1], [0, 0, 0, 0, 0]])
    rows = decoder_layer._unseen(slice(2, 5), slice(1, 5), 2)
    np.testing.assert_array_equal(rows, [[0, 0, 1, 1], [1, 0, 0, 1], [1, 1, 0, 0]])
