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


def round_tokens(x: torch.Tensor, limit: float) -> torch.Tensor:
    """int8 with one scale for each token, except for magnitudes from `limit` on."""
    inliers = torch.where(x.abs() >= limit, 0, x)
    scale = inliers.abs().amax(dim=-1, keepdim=True) / 127
    return torch.where(x.abs() >= limit, x, torch.round(inliers * (1 / scale)) * scale)


def round_inputs_of_layers(model: torch.nn.Module, limit: float) -> None:
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear) and ".layers." in name:
            module.register_forward_pre_hook(lambda _, inputs: (round_tokens(inputs[0], limit),))


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
def test_values_are_those_of_the_packer(tmp_path: Path, scheme, case: Case) -> None:
    """The reference backend multiplies decoded floats: only the order of float32 sums differs from transformers.
    Where activations are rounded too, that may move one between two levels, a 127th of its token's largest apart."""
    model = write_quantized_model(tmp_path, scheme, case)
    rounded_from = {"w8a8": float("inf"), "llm_int8": 6.0}.get(scheme.name)
    if rounded_from is not None:
        round_inputs_of_layers(model, rounded_from)
    truth = true_logits(model, prompt_tokens())
    tolerance = 2e-4 if rounded_from is None else 1e-2
    np.testing.assert_allclose(
        logits(tmp_path, ReferenceBackend()), truth, rtol=0, atol=tolerance * np.abs(truth).max()
    )


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
