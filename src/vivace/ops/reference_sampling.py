"""What sampling means: one row at a time, in float64. See `vivace.ops.backend.SampleInputs` for the order of steps.

Non-finite logits (NaN, +inf and -inf) are never chosen. Ties go to the lowest id everywhere: in the argmax, at the
border of top-k and top-p, and in ranks.

Shape letters: S sampled rows, V vocabulary, K most likely tokens wanted.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vivace.ops.backend import Float32Array, Int32Array, SampleInputs, TopLogprobs

Row = NDArray[np.float64]
NO_TOKEN = -1


def sample(logits_SV: Float32Array, inputs: SampleInputs) -> Int32Array:
    """Token ids [S]; -1 for a row without any finite logit."""
    tokens = [_sample_row(logits_SV[row].astype(np.float64), inputs, row) for row in range(len(logits_SV))]
    return np.asarray(tokens, dtype=np.int32)


def _sample_row(logits_V: Row, inputs: SampleInputs, row: int) -> int:
    _mask(logits_V, inputs, row)
    _penalize(logits_V, inputs, row)
    logits_V[~np.isfinite(logits_V)] = -np.inf
    if not np.isfinite(logits_V).any():
        return NO_TOKEN
    temperature = float(inputs.temperature_S[row])
    if temperature == 0:
        return int(np.argmax(logits_V))
    weights_V = np.exp((logits_V - logits_V.max()) / temperature)
    kept_V = _kept(weights_V, int(inputs.top_k_S[row]), float(inputs.min_p_S[row]), float(inputs.top_p_S[row]))
    return _draw(np.where(kept_V, weights_V, 0.0), float(inputs.uniform_S[row]))


def _mask(logits_V: Row, inputs: SampleInputs, row: int) -> None:
    """Minus infinity on every token that the row's mask does not allow; in place."""
    if len(inputs.mask_index_S) and (index := int(inputs.mask_index_S[row])) >= 0:
        words = inputs.mask_RW[index].astype("<u4").view(np.uint8)
        allowed_V = np.unpackbits(words, bitorder="little")[: len(logits_V)].astype(np.bool_)
        logits_V[~allowed_V] = -np.inf


def _penalize(logits_V: Row, inputs: SampleInputs, row: int) -> None:
    """Repetition penalty (Keskar et al., 2019), frequency and presence penalties, then the bias; in place."""
    span = slice(inputs.history_starts_S1[row], inputs.history_starts_S1[row + 1])
    tokens, counts = inputs.history_tokens[span], inputs.history_counts[span]
    seen, repetition = logits_V[tokens], float(inputs.repetition_S[row])
    seen = np.where(seen > 0, seen / repetition, seen * repetition)
    seen -= float(inputs.frequency_S[row]) * counts + float(inputs.presence_S[row]) * (counts > 0)
    logits_V[tokens] = seen
    span = slice(inputs.bias_starts_S1[row], inputs.bias_starts_S1[row + 1])
    np.add.at(logits_V, inputs.bias_tokens[span], inputs.bias_values[span])


def _kept(weights_V: Row, top_k: int, min_p: float, top_p: float) -> NDArray[np.bool_]:
    """Which tokens may be drawn: top-k, then min-p (of the largest), then top-p of what is left."""
    order = np.argsort(-weights_V, kind="stable")  # most likely first, the lowest id first among equals
    if top_k > 0:
        order = order[:top_k]
    order = order[weights_V[order] >= min_p * weights_V[order[0]]]
    if top_p < 1:
        mass = np.cumsum(weights_V[order])
        count = int(np.searchsorted(mass, top_p * mass[-1])) + 1  # the shortest prefix with at least that mass
        order = order[:count]
    kept = np.zeros(weights_V.shape, dtype=np.bool_)
    kept[order] = True
    return kept


def _draw(weights_V: Row, uniform: float) -> int:
    """Inverse CDF in the order of ids: the first token whose cumulated weight exceeds uniform * total."""
    mass_V = np.cumsum(weights_V)
    token = int(np.searchsorted(mass_V, uniform * mass_V[-1], side="right"))
    return min(token, int(np.flatnonzero(weights_V)[-1]))


def top_logprobs(logits_SV: Float32Array, tokens_S: Int32Array, k: int) -> TopLogprobs:
    """Values of the raw log-softmax. A token of -1 gets -inf and rank 0."""
    num_rows = len(logits_SV)
    logprobs, ranks = np.full(num_rows, -np.inf, np.float32), np.zeros(num_rows, np.int32)
    top_ids = np.zeros((num_rows, k), np.int32)
    top_values = np.full((num_rows, k), -np.inf, np.float32)
    for row, token in enumerate(tokens_S):
        logprobs_V = _log_softmax(logits_SV[row].astype(np.float64))
        order = np.argsort(-logprobs_V, kind="stable")
        top_ids[row] = order[:k]
        top_values[row] = logprobs_V[order[:k]]
        if token != NO_TOKEN:
            logprobs[row] = logprobs_V[token]
            ranks[row] = int(np.flatnonzero(order == token)[0]) + 1
    return TopLogprobs(logprobs, ranks, top_ids, top_values)


def _log_softmax(logits_V: Row) -> Row:
    logits_V[~np.isfinite(logits_V)] = -np.inf
    if not np.isfinite(logits_V).any():
        return logits_V
    shifted = logits_V - logits_V.max()
    result: Row = shifted - np.log(np.exp(shifted).sum())
    return result
