"""Logits of GGUF files that the `gguf` package wrote, against transformers."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from decoder_run import BACKENDS, prompt_logits
from fake_checkpoint import METADATA, FakeCheckpoint
from gguf_export import write_gguf
from tiny_checkpoints import CASES_BY_NAME, Case, make_model, prompt_tokens, save, true_logits

from vivace.core.errors import ModelFileError
from vivace.formats.checkpoint import open_gguf
from vivace.models.gguf_config import spec_from_gguf
from vivace.models.hf_config import read_hf_config
from vivace.models.parameters import load_parameters
from vivace.models.weight_names import half_split_order
from vivace.ops.backend import Backend

# What GGUF cannot say (query_pre_attn_scalar, the pattern of windows) has the value that readers assume.
GEMMA2 = Case("gemma2", "gemma2", {"sliding_window": 6, "query_pre_attn_scalar": 12, "attn_logit_softcapping": 3.0})
GEMMA3 = Case(
    "gemma3",
    "gemma3_text",
    {
        "num_hidden_layers": 7,
        "sliding_window": 5,
        "query_pre_attn_scalar": 12,
        "rope_parameters": CASES_BY_NAME["gemma3"].fields["rope_parameters"],
    },
)
NAMES = [
    "llama-gqa",
    "llama-mqa-tied",
    "llama-biases",
    "llama3-rope",
    "llama-linear-rope",
    "llama-yarn",
    "mistral-no-window",
    "qwen2",
    "qwen3",
    "gemma-mqa",
    "phi3-window",
    "phi3-longrope-short",
    "phi3-longrope-long",
]
CASES = [*(CASES_BY_NAME[name] for name in NAMES), GEMMA2, GEMMA3]
WIDE = Case("llama-q8_0", "llama", {"hidden_size": 64, "head_dim": 16, "intermediate_size": 96})


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> Backend:
    return BACKENDS[request.param]()


@pytest.mark.parametrize("case", CASES, ids=str)
def test_logits_equal_those_of_transformers(case: Case, backend: Backend, tmp_path: Path) -> None:
    model = make_model(case)
    path = tmp_path / "model.gguf"
    write_gguf(model, case, path)
    tokens = prompt_tokens()
    with open_gguf(path) as checkpoint:
        spec = spec_from_gguf(checkpoint)
        parameters = load_parameters(spec, checkpoint, backend)
    actual = prompt_logits(backend, spec, parameters, tokens, case.max_model_len)
    assert np.abs(actual - true_logits(model, tokens)).max() < 1e-4


def test_quantised_rows_are_put_in_half_split_order(backend: Backend, tmp_path: Path) -> None:
    """Q8_0: transformers runs on the numbers that the `gguf` package reads back from the file's encoding."""
    model = make_model(WIDE)
    path = tmp_path / "model.gguf"
    write_gguf(model, WIDE, path, gguf.GGMLQuantizationType.Q8_0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                blocks = gguf.quantize(parameter.numpy(), gguf.GGMLQuantizationType.Q8_0)
                parameter.copy_(torch.asarray(gguf.dequantize(blocks, gguf.GGMLQuantizationType.Q8_0)))
    with open_gguf(path) as checkpoint:
        spec = spec_from_gguf(checkpoint)
        parameters = load_parameters(spec, checkpoint, backend)
    tokens = prompt_tokens()
    expected = true_logits(model, tokens)
    error = np.linalg.norm(prompt_logits(backend, spec, parameters, tokens) - expected) / np.linalg.norm(expected)
    assert error < (1e-5 if backend.name == "reference" else 0.03)  # others may round activations to 8 bits


@pytest.mark.parametrize("case", [CASES_BY_NAME["qwen3"], GEMMA2, CASES_BY_NAME["phi3-longrope-long"]], ids=str)
def test_spec_equals_that_of_the_hf_directory(case: Case, tmp_path: Path) -> None:
    """But for the offset of Gemma's norms, which conversion folds in, and float32 rounding of numbers."""
    model = make_model(case)
    save(model, tmp_path)
    write_gguf(model, case, tmp_path / "model.gguf")
    with open_gguf(tmp_path / "model.gguf") as checkpoint:
        from_gguf = spec_from_gguf(checkpoint)
    from_hf = read_hf_config(tmp_path)
    for name in type(from_hf).__slots__:
        if name == "norm_weight_offset":
            assert from_gguf.norm_weight_offset == 0
        elif name == "rope":
            assert from_gguf.rope.theta == pytest.approx(from_hf.rope.theta)
            assert from_gguf.rope.rotary_dim == from_hf.rope.rotary_dim
            assert from_gguf.rope.scale == pytest.approx(from_hf.rope.scale)
        elif name == "norm_eps":
            assert from_gguf.norm_eps == pytest.approx(from_hf.norm_eps)
        else:
            assert getattr(from_gguf, name) == getattr(from_hf, name), name


@pytest.mark.parametrize("pattern", [3, [True, True, False, True]])
def test_windows_of_a_written_pattern(pattern: int | list[bool], tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    write_gguf(make_model(GEMMA2), GEMMA2, path, window_pattern=pattern)
    with open_gguf(path) as checkpoint:
        assert spec_from_gguf(checkpoint).layer_windows == (6, 6, None, 6)


def test_half_split_order_of_a_partial_rotation() -> None:
    assert half_split_order(12, head_dim=6, rotary_dim=4).tolist() == [0, 2, 1, 3, 4, 5, 6, 8, 7, 9, 10, 11]


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"general.architecture": "mamba"}, "general.architecture"),
        ({"general.architecture": None}, "general.architecture"),
        ({"general.architecture": 3}, "general.architecture"),
        ({"llama.block_count": 10**9}, "llama.block_count"),
        ({"llama.block_count": 0}, "llama.block_count"),
        ({"llama.block_count": 2.0}, "llama.block_count"),
        ({"llama.context_length": None}, "llama.context_length"),
        ({"llama.embedding_length": 2**31}, "llama.embedding_length"),
        ({"llama.attention.head_count": 5}, "llama.attention.head_count"),
        ({"llama.attention.head_count": np.array([4, 4])}, "llama.attention.head_count"),
        ({"llama.attention.value_length": 16, "llama.attention.key_length": 8}, "llama.attention.value_length"),
        ({"llama.rope.freq_base": float("nan")}, "llama.rope.freq_base"),
        ({"llama.rope.scaling.type": "linear"}, "llama.rope.scaling.factor"),
        ({"llama.rope.scaling.type": "odd", "llama.rope.scaling.factor": 2.0}, "llama.rope.scaling.type"),
        ({}, "token_embd.weight"),
    ],
)
def test_hostile_metadata(changes: dict, field: str) -> None:
    with pytest.raises(ModelFileError) as caught:
        spec_from_gguf(FakeCheckpoint(METADATA | changes, []))
    assert caught.value.field == field
    assert "fake.gguf" in str(caught.value)
