"""Small checkpoints that llm-compressor makes, run by us. Opt-in: in an environment that has `llmcompressor`
(its own, beside transformers and torch); elsewhere it skips.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("llmcompressor")

import tokenizers
import torch
import transformers
from decoder_run import prompt_logits
from llmcompressor import oneshot
from llmcompressor.modifiers.quantization import GPTQModifier
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


@pytest.mark.parametrize("scheme", ["W4A16", "W4A16_ASYM", "W8A16", "W8A8"])
def test_logits_are_those_of_transformers_on_the_same_file(tmp_path: Path, scheme: str) -> None:
    """W8A8 rounds activations: a sum that differs in its last bit may move one to the next of 255 levels."""
    make_model(CASE).save_pretrained(tmp_path / "full")  # llm-compressor looks for files beside the weights
    model: Any = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "full", dtype=torch.float32)
    recipe = GPTQModifier(targets="Linear", scheme=scheme, ignore=["lm_head"])
    oneshot(model=model, processor=tokenizer(), dataset=DataLoader(ROWS, batch_size=1), recipe=recipe)
    model.save_pretrained(tmp_path, save_compressed=True)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval()
    truth = true_logits(theirs, prompt_tokens())
    spec, backend = read_hf_config(tmp_path), ReferenceBackend()
    with open_checkpoint(tmp_path) as checkpoint:
        assert not any(name.endswith(("_packed", "_scale")) for name in checkpoint.names())
        parameters = load_parameters(spec, checkpoint, backend)
    ours = prompt_logits(backend, spec, parameters, prompt_tokens())
    tolerance = 0.02 if scheme == "W8A8" else 1e-3
    np.testing.assert_allclose(ours, truth, rtol=0, atol=tolerance * np.abs(truth).max())
