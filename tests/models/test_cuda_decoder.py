"""Logits of every family by the torch backend, on torch's CPU device, against the reference. No GPU is needed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from decoder_run import DecoderRun, prompt_logits
from tiny_checkpoints import CASES, Case, make_model, prompt_tokens, save

from vivace.backends.cuda.backend import CudaBackend
from vivace.backends.reference.backend import ReferenceBackend
from vivace.formats.checkpoint import open_checkpoint
from vivace.models.hf_config import read_hf_config
from vivace.models.parameters import load_parameters
from vivace.ops.backend import Backend


@pytest.mark.parametrize("case", CASES, ids=str)
def test_logits_are_those_of_the_reference(case: Case, tmp_path: Path) -> None:
    torch.set_num_threads(1)
    save(make_model(case), tmp_path)
    spec, tokens = read_hf_config(tmp_path), prompt_tokens()

    def logits(backend: Backend) -> np.ndarray:
        with open_checkpoint(tmp_path) as checkpoint:
            parameters = load_parameters(spec, checkpoint, backend)
        return prompt_logits(backend, spec, parameters, tokens, case.max_model_len)

    expected = logits(ReferenceBackend(np.float64))
    assert np.abs(logits(CudaBackend("cpu")) - expected).max() < 1e-5


def test_rows_are_the_same_in_chunks_and_beside_others(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    save(make_model(CASES[0]), tmp_path)
    spec, tokens = read_hf_config(tmp_path), prompt_tokens()
    backend = CudaBackend("cpu")
    with open_checkpoint(tmp_path) as checkpoint:
        parameters = load_parameters(spec, checkpoint, backend)
    expected = prompt_logits(backend, spec, parameters, tokens)
    run = DecoderRun(backend, spec, parameters)
    run.step([[], tokens[:3]])
    first, _ = run.step([tokens[:5], tokens[3:4]])
    second, _ = run.step([tokens[5:6], tokens[4:9]])
    np.testing.assert_allclose(np.concatenate([first, second]), expected[:6], rtol=1e-6, atol=1e-6)
