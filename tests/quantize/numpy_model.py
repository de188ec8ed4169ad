"""A whole model through calibration's own layers, and small models to quantise."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from test_gguf_export import add_tokenizer
from tiny_checkpoints import CASES_BY_NAME, make_model, save

from vivace.quantize.decoder_layer import DecoderLayer, Floats
from vivace.quantize.embedding import embed
from vivace.quantize.layer_pass import LayerPass, Scratch
from vivace.quantize.sensitivity import log_probabilities
from vivace.quantize.source_model import SourceModel

TEXT = "".join(chr(0x21 + (7 * i * i + i // 9) % 90) + "\n\n" * (i % 500 == 499) for i in range(20_000))


def tiny_model(directory: Path, name: str = "llama-gqa") -> Path:
    """A case of tests/models with a tokenizer of single characters."""
    save(make_model(CASES_BY_NAME[name]), directory)
    add_tokenizer(directory)
    return directory


def token_windows(vocab_size: int, num_windows: int, length: int, seed: int = 0) -> NDArray[np.int32]:
    ids = np.random.default_rng(seed).integers(0, vocab_size, (num_windows, length))
    return ids.astype(np.int32)


def model_log_probabilities(
    directory: Path, token_ids_SL: NDArray[np.int32], layer_pass: type[LayerPass] = LayerPass
) -> Floats:
    """[T, V] of a float folder; `layer_pass` may round the inputs of products."""
    with SourceModel(str(directory)) as model, tempfile.TemporaryDirectory() as room:
        hidden = np.empty((token_ids_SL.size, model.spec.hidden_size), np.float32)
        embed(model, token_ids_SL, hidden)
        for layer in range(model.spec.num_layers):
            scratch = Scratch(Path(room), model.spec, *token_ids_SL.shape)
            run = layer_pass(DecoderLayer(model.spec, layer, model.vectors(layer)), hidden, hidden, scratch)
            run.run(lambda matrix, rows, at=layer: model.values(matrix, at, rows), model.row_blocks)
            scratch.close()
        return log_probabilities(model, hidden)


def mean_divergence(reference_TV: Floats, other_TV: Floats) -> float:
    """KL(reference || other), nats a token."""
    return float((np.exp(reference_TV) * (reference_TV - other_TV)).sum(axis=1).mean())
