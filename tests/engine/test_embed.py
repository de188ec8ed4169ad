"""Embeddings of `LLM.embed` against transformers, and what is refused."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

from vivace.core.errors import ContextLengthError, EngineError, RequestError
from vivace.core.sampling import SamplingParams
from vivace.core.sequence import Pooling
from vivace.engine.llm import LLM
from vivace.engine.pooling import POOLING_PARAMS, PooledStates, unit_vector
from vivace.resources import embedded_model_path

TEXTS = ["Once upon a time", "The old man went home.", "x", "In the morning " * 40]
TOLERANCE = 2e-4  # float32 sums of other orders, on states of some units


@pytest.fixture(scope="module")
def llm() -> LLM:
    return LLM(quantization="f32", max_num_seqs=16, max_num_batched_tokens=64, max_model_len=256)


@pytest.fixture(scope="module")
def states(llm: LLM) -> list[np.ndarray]:
    """Hidden states [T, D] of each text after the final norm, as transformers computes them."""
    torch.set_num_threads(1)
    model = transformers.AutoModel.from_pretrained(embedded_model_path(), dtype=torch.float32)
    with torch.no_grad():
        return [
            model(torch.tensor([llm.tokenizer.encode(text)])).last_hidden_state[0].double().numpy() for text in TEXTS
        ]


@pytest.mark.parametrize("pooling", ["mean", "last"])
def test_vectors_equal_those_of_transformers(llm: LLM, states: list[np.ndarray], pooling: Pooling) -> None:
    outputs = llm.embed(TEXTS, pooling=pooling, normalize=False)
    for output, text, state_TD in zip(outputs, TEXTS, states, strict=True):
        expected = state_TD.mean(axis=0) if pooling == "mean" else state_TD[-1]
        assert output.prompt == text
        assert output.prompt_token_ids == llm.tokenizer.encode(text)
        assert np.abs(expected).max() > 0.5
        assert np.abs(np.array(output.embedding) - expected).max() < TOLERANCE


def test_vectors_have_length_one_by_default(llm: LLM, states: list[np.ndarray]) -> None:
    for output, state_TD in zip(llm.embed(TEXTS), states, strict=True):
        mean = state_TD.mean(axis=0)
        assert np.linalg.norm(output.embedding) == pytest.approx(1.0, abs=1e-6)
        assert np.abs(np.array(output.embedding) - mean / np.linalg.norm(mean)).max() < TOLERANCE


def test_values_are_float32(llm: LLM) -> None:
    for normalize in (True, False):
        vector = llm.embed(TEXTS[0], normalize=normalize)[0].embedding
        assert np.array_equal(np.array(vector, np.float32).astype(np.float64), vector)


def test_prompt_as_long_as_the_context_fits_and_one_more_does_not(llm: LLM) -> None:
    assert len(llm.embed([[5] * 256])[0].embedding) == 256
    with pytest.raises(ContextLengthError):
        llm.embed([[5] * 257])


@pytest.mark.parametrize("prompt", [[], [-1], [1 << 20]])
def test_bad_prompts_are_refused(llm: LLM, prompt: list[int]) -> None:
    with pytest.raises(RequestError):
        llm.embed([[1, 2], prompt])
    assert llm.engine.num_unfinished == 0


@pytest.mark.parametrize(
    "params", [SamplingParams(), SamplingParams(max_tokens=0, n=2), SamplingParams(max_tokens=0, prompt_logprobs=1)]
)
def test_parameters_of_generation_are_refused(llm: LLM, params: SamplingParams) -> None:
    with pytest.raises(RequestError):
        llm.engine.add("refused", [1], params, pooling="mean")
    assert llm.engine.num_unfinished == 0


def test_last_event_is_a_stop_without_a_token(llm: LLM) -> None:
    llm.engine.add("one", [3, 4, 5], POOLING_PARAMS, pooling="last")
    events = llm.engine.step()
    assert [(event.request_id, event.token, event.finish) for event in events] == [("one", None, "stop")]
    assert llm.engine.record("one").embedding is not None
    llm.engine.forget("one")


def test_states_that_are_not_finite_are_an_error(tmp_path: Path) -> None:
    """A checkpoint whose norm holds NaN: an error of the request, never a vector of NaN."""
    from safetensors.torch import load_file, save_file

    shutil.copytree(embedded_model_path(), tmp_path / "model")
    path = tmp_path / "model" / "model.safetensors"
    tensors = load_file(path)
    tensors["model.norm.weight"][3] = float("nan")
    save_file(tensors, path, metadata={"format": "pt"})
    llm = LLM(str(tmp_path / "model"), max_model_len=64)
    with pytest.raises(EngineError, match="not finite"):
        llm.embed("Once")
    assert llm.engine.num_unfinished == 0


def test_mean_adds_rows_in_order_of_position() -> None:
    rows = np.random.default_rng(20261122).standard_normal((300, 17)).astype(np.float32) * 1e5
    expected = [sum((float(value) for value in column), 0.0) / 300 for column in rows.T]
    for cut in (1, 2, 128, 299):
        states = PooledStates("mean")
        states.add(0, rows[:50])  # lost to a preemption
        states.add(0, rows[:cut])
        states.add(cut, rows[cut:])
        assert states.vector() == np.array(expected, np.float32).tolist()


def test_gap_between_chunks_is_an_error() -> None:
    states = PooledStates("mean")
    states.add(0, np.zeros((4, 2), np.float32))
    with pytest.raises(EngineError, match="position 5 follow 4"):
        states.add(5, np.zeros((1, 2), np.float32))


def test_unit_vector() -> None:
    assert unit_vector([3.0, 4.0]) == np.array([0.6, 0.8], np.float32).tolist()
    assert unit_vector([0.0, 0.0]) == [0.0, 0.0]
    huge = float(np.finfo(np.float32).max)
    assert unit_vector([huge, -huge]) == np.array([0.5**0.5, -(0.5**0.5)], np.float32).tolist()
