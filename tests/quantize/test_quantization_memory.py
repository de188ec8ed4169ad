"""Quantising takes less memory than one decoder layer in 16 bit, beside the activations of a few windows."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from numpy_model import TEXT
from test_gguf_export import add_tokenizer
from tiny_checkpoints import VOCAB_SIZE

from vivace.formats.quantize_rtn import encode
from vivace.formats.safetensors_writer import write_safetensors
from vivace.quantize import inverse_cholesky, layer_pass, statistics
from vivace.quantize.options import quantize_options
from vivace.quantize.quantization import quantize_model

HIDDEN, FEED_FORWARD, HEADS = 512, 1_408, 8
LAYER_WEIGHTS = 4 * HIDDEN * HIDDEN + 3 * HIDDEN * FEED_FORWARD
NUM_SAMPLES, SEQ_LEN = 4, 64


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One random layer of 3.2 million weights, bfloat16."""
    directory = tmp_path_factory.mktemp("memory")
    rng = np.random.default_rng(11)
    shapes = {f"self_attn.{name}_proj": (HIDDEN, HIDDEN) for name in "qkvo"}
    shapes |= {"mlp.gate_proj": (FEED_FORWARD, HIDDEN), "mlp.up_proj": (FEED_FORWARD, HIDDEN)}
    shapes |= {"mlp.down_proj": (HIDDEN, FEED_FORWARD), "input_layernorm": (HIDDEN,)}
    shapes |= {"post_attention_layernorm": (HIDDEN,)}
    named = {f"model.layers.0.{name}.weight": shape for name, shape in shapes.items()}
    named |= {"model.embed_tokens.weight": (VOCAB_SIZE, HIDDEN), "model.norm.weight": (HIDDEN,)}
    tensors = {
        name: encode((0.02 * rng.standard_normal(shape) + (len(shape) == 1)).astype(np.float32), "bf16", name)
        for name, shape in named.items()
    }
    write_safetensors(directory / "model.safetensors", tensors)
    config = {
        "model_type": "llama",
        "vocab_size": VOCAB_SIZE,
        "hidden_size": HIDDEN,
        "intermediate_size": FEED_FORWARD,
        "num_hidden_layers": 1,
        "num_attention_heads": HEADS,
        "num_key_value_heads": HEADS,
        "max_position_embeddings": 512,
        "tie_word_embeddings": True,
    }
    (directory / "config.json").write_text(json.dumps(config))
    add_tokenizer(directory)
    (directory / "text.txt").write_text(TEXT)
    return directory


@pytest.mark.parametrize("method", ["rtn", "gptq", "awq", "smoothquant"])
def test_peak_memory(model: Path, tmp_path: Path, method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows and panels are as small beside this layer as their defaults are beside one of 200 million weights."""
    monkeypatch.setattr(layer_pass, "TOKENS_AT_ONCE", SEQ_LEN)
    monkeypatch.setattr(statistics, "PANEL", 32)
    monkeypatch.setattr(inverse_cholesky, "BLOCK", 32)
    calibrated = {} if method == "rtn" else {"num_samples": NUM_SAMPLES, "seq_len": SEQ_LEN}
    options = quantize_options(method, **calibrated)
    data = None if method == "rtn" else str(model / "text.txt")
    tracemalloc.start()
    try:
        quantize_model(str(model), tmp_path / "out", options, calibration=data)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    window_bytes = SEQ_LEN * (3 * FEED_FORWARD + 2 * HIDDEN) * 4  # gate, up and their product, the inputs, the sums
    sample_bytes = NUM_SAMPLES * SEQ_LEN * (3 * HIDDEN + FEED_FORWARD) * 4  # AWQ keeps sampled inputs of all stages
    activation_bytes = 2 * window_bytes + (sample_bytes if method in ("awq", "smoothquant") else 0)
    print(f"{method}: peak {peak / 1e6:.2f} MB, layer in 16 bit {2 * LAYER_WEIGHTS / 1e6:.2f} MB")
    assert peak < 2 * LAYER_WEIGHTS + activation_bytes
