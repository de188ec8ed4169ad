"""Checkpoints that others quantised, run end to end: the logits of transformers on the same values."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from decoder_run import prompt_logits
from quantized_models import SCHEMES, SCHEMES_BY_NAME, WIDE, write_quantized_model
from tiny_checkpoints import CASES_BY_NAME, Case, prompt_tokens, true_logits

from vivace.backends.cpu.backend import CpuBackend
from vivace.backends.reference.backend import ReferenceBackend
from vivace.core.errors import ModelFileError
from vivace.formats.checkpoint import open_checkpoint
from vivace.models.hf_config import read_hf_config
from vivace.models.parameters import load_parameters
from vivace.ops.backend import Backend

# Biases pass through; phi3 has fused matrices; qwen2 ties its table.
CASES = [
    Case("llama", "llama", WIDE),
    Case("qwen2", "qwen2", {**WIDE, "tie_word_embeddings": True}),
    Case("phi3", "phi3", WIDE),
]


def logits(directory: Path, backend: Backend, quantization: str | None = None) -> np.ndarray:
    spec = read_hf_config(directory)
    with open_checkpoint(directory) as checkpoint:
        parameters = load_parameters(spec, checkpoint, backend, quantization)  # type: ignore[arg-type]
    return prompt_logits(backend, spec, parameters, prompt_tokens())


def relative_error(actual: np.ndarray, truth: np.ndarray) -> float:
    return float(np.linalg.norm(actual - truth) / np.linalg.norm(truth))


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
def test_values_are_those_of_the_packer(tmp_path: Path, scheme, case: Case) -> None:
    """The reference backend multiplies decoded floats: only the order of float32 sums differs from transformers.

    Where int8 activations are part of the scheme, sums that differ in the last bit can move an activation to the next
    of 255 levels: 1/127 of a row's largest magnitude, in a few of some hundred inputs.
    """
    model = write_quantized_model(tmp_path, scheme, case)
    truth = true_logits(model, prompt_tokens())
    tolerance = (2e-4 if scheme.activations is None else 0.02) * np.abs(truth).max()
    np.testing.assert_allclose(logits(tmp_path, ReferenceBackend()), truth, rtol=0, atol=tolerance)


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
def test_the_processor_agrees(tmp_path: Path, scheme, case: Case) -> None:
    """The kernels read activations as int8: by groups of 32 inputs a step is 1/127 of the group's largest number,
    some 2.5 times its root mean square, and rounding adds a relative error of 2.5 / 127 / sqrt(12) = 0.6% to a
    product (0.8% by rows of 96). 28 products, each passed on by a residual stream, stay under 5%.
    """
    model = write_quantized_model(tmp_path, scheme, case)
    truth = true_logits(model, prompt_tokens())
    assert relative_error(logits(tmp_path, CpuBackend()), truth) < 0.05


def test_a_quantisation_at_load_leaves_packed_matrices_alone(tmp_path: Path) -> None:
    model = write_quantized_model(tmp_path, SCHEMES_BY_NAME["awq"], CASES[0])
    truth = true_logits(model, prompt_tokens())
    ours = logits(tmp_path, ReferenceBackend(), "f32")
    np.testing.assert_allclose(ours, truth, rtol=0, atol=2e-4 * np.abs(truth).max())


def test_biases_of_zeros_that_the_model_does_not_have_pass(tmp_path: Path) -> None:
    """AutoGPTQ gave every packed matrix one."""
    zeros = {f"model.layers.{layer}.self_attn.q_proj.bias": torch.zeros(64) for layer in range(4)}
    scheme = SCHEMES_BY_NAME["gptq-4-v1-runs"]
    model = write_quantized_model(tmp_path / "zeros", scheme, CASES[0], zeros)
    truth = true_logits(model, prompt_tokens())
    np.testing.assert_allclose(logits(tmp_path / "zeros", ReferenceBackend()), truth, rtol=0, atol=1e-3)
    zeros["model.layers.2.self_attn.q_proj.bias"][5] = 0.1
    write_quantized_model(tmp_path / "one", scheme, CASES[0], zeros)
    with pytest.raises(ModelFileError, match="does not ask for it") as caught:
        logits(tmp_path / "one", ReferenceBackend())
    assert caught.value.field == "model.layers.2.self_attn.q_proj.bias"


def test_a_packed_matrix_of_another_shape_is_named(tmp_path: Path) -> None:
    write_quantized_model(tmp_path, SCHEMES_BY_NAME["gptq-4-v1-order"], CASES[0])
    spec = replace(read_hf_config(tmp_path), intermediate_size=128)
    with open_checkpoint(tmp_path) as checkpoint, pytest.raises(ModelFileError, match="asks for") as caught:
        load_parameters(spec, checkpoint, ReferenceBackend())
    assert caught.value.field == "model.layers.0.mlp.gate_proj.weight"


def test_widths_that_no_kernel_runs_are_named(tmp_path: Path) -> None:
    write_quantized_model(tmp_path, SCHEMES_BY_NAME["awq"], CASES_BY_NAME["llama-gqa"])
    with pytest.raises(ModelFileError, match="whole 32 inputs"):
        logits(tmp_path, ReferenceBackend())
