"""How much each stage of each layer matters: the model's divergence when that stage alone is rounded.

One walk through the layers carries the float model and every variant made so far, so each layer's weights are read
once for all of them; hidden states are in a mapped file. A model of N layers costs 8 N variants, each run from its
own layer to the end.
Shape letters: T tokens of the float model and of each variant, V vocabulary, D hidden.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vivace.quantize.decoder_layer import STAGE_OF, STAGES, DecoderLayer, Floats, StageName, rms_norm
from vivace.quantize.embedding import embed
from vivace.quantize.grid import round_to_nearest
from vivace.quantize.layer_pass import LayerPass, Scratch
from vivace.quantize.source_model import SourceModel

ROUNDED_WIDTHS = (4, 8)
MAX_TOKENS = 2048  # of the calibration data that variants see: 8 variants a layer are run to the end
LOGIT_TOKENS = 128  # at once: 64 MiB of logits at a vocabulary of 128,000
VOCABULARY_ROWS = 8192  # of the output matrix, at once

Divergences = dict[tuple[int, StageName, int], float]  # (layer, stage, bits): nats a token


def measure_sensitivity(
    model: SourceModel,
    token_ids_SL: NDArray[np.int32],
    group_size_of: Callable[[int], int],
    symmetric: bool,
    directory: Path,
    progress: Callable[[int, int], None],
) -> Divergences:
    """Mean KL divergence from the float model. `group_size_of` gives the group size for a number of inputs."""
    windows = token_ids_SL[: max(1, MAX_TOKENS // token_ids_SL.shape[1])]
    keys = [
        (layer, stage, bits) for layer in range(model.spec.num_layers) for stage in STAGES for bits in ROUNDED_WIDTHS
    ]
    variants = _Variants(model, windows, len(keys) + 1, directory)
    try:
        for layer in range(model.spec.num_layers):
            for number, (its_layer, stage, bits) in enumerate(keys, 1):
                if its_layer == layer:
                    variants.branch(number, layer, _rounding(model, layer, stage, bits, group_size_of, symmetric))
            variants.advance(layer, num_variants=1 + (layer + 1) * len(STAGES) * len(ROUNDED_WIDTHS))
            progress(layer + 1, model.spec.num_layers)
        return dict(zip(keys, variants.divergences(), strict=True))
    finally:
        variants.close()


Weights = Callable[[str, slice], Floats]


def _rounding(
    model: SourceModel,
    layer: int,
    stage: StageName,
    bits: int,
    group_size_of: Callable[[int], int],
    symmetric: bool,
) -> Weights:
    def weights(matrix: str, rows: slice) -> Floats:
        weights_NK = model.values(matrix, layer, rows)
        if STAGE_OF[matrix] != stage:
            return weights_NK
        return round_to_nearest(weights_NK, bits, group_size_of(weights_NK.shape[1]), symmetric).dequantize()

    return weights


class _Variants:
    """Hidden states of the float model (number 0) and of the variants, side by side in one mapped file."""

    def __init__(self, model: SourceModel, windows: NDArray[np.int32], count: int, directory: Path) -> None:
        self.model, self.windows, self.directory = model, windows, directory
        self.path = directory / "scratch-variants.f32"
        shape = (count * windows.size, model.spec.hidden_size)
        self.hidden = np.memmap(self.path, np.float32, "w+", shape=shape)
        self.advanced: set[int] = set()
        embed(model, windows, self._states(0))

    def _states(self, number: int) -> Floats:
        size = self.windows.size
        return self.hidden[number * size : (number + 1) * size]

    def branch(self, number: int, layer: int, weights: Weights) -> None:
        """A new variant: the float model up to `layer`, which it runs with other weights."""
        self._run(layer, self._states(0), self._states(number), weights)
        self.advanced.add(number)

    def advance(self, layer: int, num_variants: int) -> None:
        """Runs the float layer for all that have not run this one yet."""
        model = self.model
        for number in range(num_variants):
            if number not in self.advanced:
                states = self._states(number)
                self._run(layer, states, states, lambda matrix, rows: model.values(matrix, layer, rows))
        self.advanced.clear()

    def _run(self, layer: int, hidden_TD: Floats, output_TD: Floats, weights: Weights) -> None:
        description = DecoderLayer(self.model.spec, layer, self.model.vectors(layer))
        scratch = Scratch(self.directory, self.model.spec, *self.windows.shape)
        LayerPass(description, hidden_TD, output_TD, scratch).run(weights, self.model.row_blocks)
        scratch.close()

    def divergences(self) -> list[float]:
        """Of each variant from the float model, in order."""
        num_tokens = self.windows.size
        totals = np.zeros(len(self.hidden) // num_tokens)
        for start in range(0, num_tokens, LOGIT_TOKENS):
            tokens = slice(start, min(start + LOGIT_TOKENS, num_tokens))
            reference_TV = self._log_probabilities(0, tokens)
            for number in range(1, len(totals)):
                difference_TV = reference_TV - self._log_probabilities(number, tokens)
                totals[number] += np.einsum("tv,tv->", np.exp(reference_TV), difference_TV, dtype=np.float64)
        return [float(total / num_tokens) for total in totals[1:]]

    def _log_probabilities(self, number: int, tokens: slice) -> Floats:
        return log_probabilities(self.model, np.asarray(self._states(number)[tokens]))

    def close(self) -> None:
        self.path.unlink(missing_ok=True)


def log_probabilities(model: SourceModel, hidden_TD: Floats) -> Floats:
    """[T, V] from the last layer's output."""
    spec = model.spec
    x_TD = rms_norm(spec, hidden_TD, model.values("final_norm"))
    head = "token_embedding" if spec.tied_embeddings else "lm_head"
    logits_TV = np.empty((len(x_TD), spec.vocab_size), np.float32)
    for start in range(0, spec.vocab_size, VOCABULARY_ROWS):
        rows = slice(start, min(start + VOCABULARY_ROWS, spec.vocab_size))
        logits_TV[:, rows] = x_TD @ model.values(head, rows=rows).T
    if spec.final_softcap is not None:
        logits_TV = spec.final_softcap * np.tanh(logits_TV / spec.final_softcap)
    logits_TV -= logits_TV.max(axis=1, keepdims=True)
    logits_TV -= np.log(np.exp(logits_TV).sum(axis=1, keepdims=True))
    return logits_TV
