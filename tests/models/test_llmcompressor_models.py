"""Small checkpoints that llm-compressor makes, run by us. Opt-in: in an environment that has `llmcompressor`
(its own, beside transformers and torch); elsewhere it skips.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("llmcompressor")

import tokenizers
import torch
import transformers
from compressed_tensors.compressors import BaseCompressor
from compressed_tensors.quantization import QuantizationConfig
from decoder_run import prompt_logits
from llmcompressor import oneshot
from llmcompressor.modifiers.quantization import GPTQModifier
from safetensors.torch import load_file
from tiny_checkpoints import Case, make_model, prompt_tokens, true_logits
from torch.utils.data import DataLoader

from vivace.backends.reference.backend import ReferenceBackend
from vivace.formats.checkpoint import open_checkpoint
from vivace.models.hf_config import read_hf_config
from vivace.models.parameters import load_parameters

pytestmark = pytest.mark.filterwarnings("default")  # theirs

CASE = Case("wide", "llama", {"hidden_size": 128, "head_dim": 32, "intermediate_size": 256})
ROWS = [{"input_ids": torch.from_numpy(prompt_tokens(seed)).long()} for seed in range(8)]


def tokenizer() -> transformers.PreTrainedTokenizerFast:
    words = tokenizers.models.WordLevel({"<unk>": 0}, unk_token="<unk>")
    return transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizers.Tokenizer(words), pad_token="<unk>")


def decompressed(directory: Path) -> transformers.PreTrainedModel:
    """A plain model with the values that the `compressed-tensors` package reads from the file."""
    config = QuantizationConfig.model_validate(
        json.loads((directory / "config.json").read_text())["quantization_config"]
    )
    scheme, compressor = config.config_groups["group_0"], BaseCompressor.get_value_from_registry(config.format)
    modules: dict[str, dict[str, torch.Tensor]] = {}
    for name, tensor in load_file(directory / "model.safetensors").items():
        module, _, part = name.rpartition(".")
        modules.setdefault(module, {})[part] = tensor
    model = make_model(CASE)
    for module, state in modules.items():
        values = compressor.decompress(state, scheme) if "weight_scale" in state else state
        model.get_submodule(module).weight.data.copy_(values["weight"])
        if "weight_scale" in state and scheme.input_activations is not None:
            model.get_submodule(module).register_forward_pre_hook(lambda _, inputs: (round_tokens(inputs[0]),))
    return model


def round_tokens(x: torch.Tensor) -> torch.Tensor:
    """As the package does it: 256 levels, the largest magnitude at 127.5 steps."""
    step = x.abs().amax(dim=-1, keepdim=True) / 127.5
    return torch.clamp(torch.round(x / step), -128, 127) * step


@pytest.mark.parametrize("scheme", ["W4A16", "W4A16_ASYM", "W8A16", "W8A8"])
def test_logits_are_those_of_the_package_on_the_same_file(tmp_path: Path, scheme: str) -> None:
    """Group scales are float32 in these files, and float16 in ours: 2**-11 of a weight. For W8A8 the package puts a
    token's largest activation at 127.5 steps, as vLLM's kernels we put it at 127: each product's rounding (0.6% to
    0.8% of it) is another one.
    """
    make_model(CASE).save_pretrained(tmp_path / "full")  # llm-compressor looks for files beside the weights
    model: Any = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "full", dtype=torch.float32)
    recipe = GPTQModifier(targets="Linear", scheme=scheme, ignore=["lm_head"])
    oneshot(model=model, processor=tokenizer(), dataset=DataLoader(ROWS, batch_size=1), recipe=recipe)
    model.save_pretrained(tmp_path, save_compressed=True)
    truth = true_logits(decompressed(tmp_path), prompt_tokens())
    spec, backend = read_hf_config(tmp_path), ReferenceBackend()
    with open_checkpoint(tmp_path) as checkpoint:
        assert not any(name.endswith(("_packed", "_scale")) for name in checkpoint.names())
        parameters = load_parameters(spec, checkpoint, backend)
    ours = prompt_logits(backend, spec, parameters, prompt_tokens())
    error = np.linalg.norm(ours - truth) / np.linalg.norm(truth)
    print(scheme, "relative error", error)
    assert error < (0.05 if scheme == "W8A8" else 2e-3)
