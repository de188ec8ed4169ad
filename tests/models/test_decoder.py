"""Logits of every family against transformers, through the Hugging Face path."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from decoder_run import BACKENDS, DecoderRun, prompt_logits
from tiny_checkpoints import CASES, CASES_BY_NAME, Case, make_model, prompt_tokens, save, true_hidden, true_logits

from vivace.core.errors import ConfigError
from vivace.formats.checkpoint import open_checkpoint
from vivace.models.decoder import build_decoder
from vivace.models.hf_config import read_hf_config
from vivace.models.parameters import load_parameters
from vivace.ops.backend import Backend

TOLERANCE = 1e-4


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> Backend:
    return BACKENDS[request.param]()


@pytest.mark.parametrize("case", CASES, ids=str)
def test_logits_equal_those_of_transformers(case: Case, backend: Backend, tmp_path: Path) -> None:
    model = make_model(case)
    save(model, tmp_path)
    spec = read_hf_config(tmp_path)
    with open_checkpoint(tmp_path) as checkpoint:
        parameters = load_parameters(spec, checkpoint, backend)
    tokens = prompt_tokens()
    expected = true_logits(model, tokens)
    actual = prompt_logits(backend, spec, parameters, tokens, case.max_model_len)
    assert 1 < np.abs(expected).max() < 20
    assert np.abs(actual - expected).max() < TOLERANCE


@pytest.mark.parametrize("name", ["llama-mqa-tied", "qwen2", "qwen3", "gemma2", "gemma3", "phi3-window"])
def test_hidden_states_equal_those_of_transformers(name: str, backend: Backend, tmp_path: Path) -> None:
    case = CASES_BY_NAME[name]
    model = make_model(case)
    save(model, tmp_path)
    spec = read_hf_config(tmp_path)
    with open_checkpoint(tmp_path) as checkpoint:
        parameters = load_parameters(spec, checkpoint, backend)
    tokens = prompt_tokens()
    actual = DecoderRun(backend, spec, parameters, output="hidden").step([tokens, []])[0]
    expected = true_hidden(model, tokens)
    assert actual.shape == (len(tokens), spec.hidden_size)
    assert 1 < np.abs(expected).max() < 20
    assert np.abs(actual - expected).max() < TOLERANCE


@pytest.mark.parametrize("name", ["mistral-window", "gemma2", "gemma3", "qwen3", "phi3-partial-rotary"])
def test_rows_are_equal_bit_for_bit_in_chunks_and_beside_others(name: str, backend: Backend, tmp_path: Path) -> None:
    case = CASES_BY_NAME[name]
    save(make_model(case), tmp_path)
    spec = read_hf_config(tmp_path)
    with open_checkpoint(tmp_path) as checkpoint:
        parameters = load_parameters(spec, checkpoint, backend)
    tokens, neighbour = prompt_tokens(), prompt_tokens(seed=3)
    whole = prompt_logits(backend, spec, parameters, tokens)
    run = DecoderRun(backend, spec, parameters)
    steps = [
        run.step([tokens[:7], neighbour[:2]])[0],
        run.step([tokens[7:8], neighbour[2:10]])[0],
        run.step([tokens[8:9], []])[0],
        run.step([[], neighbour[10:11]])[:0],
        run.step([tokens[9:20], neighbour[11:12]])[0],
        run.step([tokens[20:], neighbour[12:]])[0],
    ]
    assert np.array_equal(np.concatenate([step for step in steps if len(step)]), whole)


def test_trained_model_continues_as_transformers_does(backend: Backend, shared: Path) -> None:
    """stories260K: 200 greedy tokens, one at a time through the cache."""
    directory = shared / "weights" / "stories260K"
    model = transformers.AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    prompt = [1, 403, 407, 261, 378]  # "Once upon a time"
    expected = model.generate(torch.tensor([prompt]), max_new_tokens=200, do_sample=False)[0].tolist()
    spec = read_hf_config(directory)
    with open_checkpoint(directory) as checkpoint:
        parameters = load_parameters(spec, checkpoint, backend)
    run = DecoderRun(backend, spec, parameters, max_model_len=256, num_sequences=1)
    tokens, new = list(prompt), prompt
    while len(tokens) < len(expected):
        new = [int(np.argmax(run.step([new])[0][-1]))]
        tokens += new
    assert tokens == expected


def test_context_beyond_the_model_is_refused(backend: Backend, tmp_path: Path) -> None:
    save(make_model(CASES_BY_NAME["llama-gqa"]), tmp_path)
    spec = read_hf_config(tmp_path)
    with open_checkpoint(tmp_path) as checkpoint:
        parameters = load_parameters(spec, checkpoint, backend)
    for max_model_len in (0, 129):
        with pytest.raises(ConfigError, match="max_model_len must be from 1 to the model's 128"):
            build_decoder(spec, parameters, max_model_len)
