"""How far the distributions of two models are apart, row by row over the whole vocabulary.

Shape letters: S rows, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from vivace.core.errors import ModelFileError
from vivace.engine.llm import LLM
from vivace.engine.logits import PromptLogits
from vivace.ops.backend import Float32Array, Int32Array

BLOCK_ELEMENTS = 1 << 16  # of float64 at once: what is made of a block of rows stays in the second-level cache


@dataclass(frozen=True, slots=True)
class RowScores:
    """Of each row: negative log probability of its target under both, KL(reference || candidate), equal best token.

    In nats; the divergence is float32, after sums in float64.
    """

    nats_S: NDArray[np.float64]
    reference_nats_S: NDArray[np.float64]
    divergence_S: Float32Array
    agrees_S: NDArray[np.bool_]


class RowPair(NamedTuple):
    """The same rows [S, V] of two models, the first of them at position `start`; views."""

    start: int
    reference_SV: Float32Array
    candidate_SV: Float32Array


def compare_rows(reference_SV: Float32Array, candidate_SV: Float32Array, targets_S: Int32Array) -> RowScores:
    """Score rows of raw logits. KL(p || q) = sum_v p_v (log p_v - log q_v), never below 0."""
    parts = [_compare_block(*rows) for rows in _blocks(reference_SV, candidate_SV, targets_S)]
    columns = [np.concatenate(column) for column in zip(*parts, strict=True)]
    return RowScores(columns[0], columns[1], columns[2].astype(np.float32), columns[3])


def paired_rows(llm: LLM, reference: LLM, token_ids: list[int], first: int) -> Iterator[RowPair]:
    """Run one prompt through both models in step, so that no more than a step's logits of each are in memory.

    Where their chunks differ in length, the shorter ones decide.
    """
    candidate_chunks, reference_chunks = (one.logits([token_ids], [first]) for one in (llm, reference))
    candidate, other = next(candidate_chunks, None), next(reference_chunks, None)
    while candidate is not None and other is not None:
        count = min(len(candidate.rows_SV), len(other.rows_SV))
        yield RowPair(candidate.start, other.rows_SV[:count], candidate.rows_SV[:count])
        candidate, other = _rest(candidate, count, candidate_chunks), _rest(other, count, reference_chunks)


def _rest(chunk: PromptLogits, count: int, chunks: Iterator[PromptLogits]) -> PromptLogits | None:
    if count == len(chunk.rows_SV):
        return next(chunks, None)
    return PromptLogits(chunk.index, chunk.start + count, chunk.rows_SV[count:])


def _blocks(
    reference_SV: Float32Array, candidate_SV: Float32Array, targets_S: Int32Array
) -> Iterator[tuple[Float32Array, Float32Array, Int32Array]]:
    num_rows = max(1, BLOCK_ELEMENTS // reference_SV.shape[1])
    for row in range(0, len(targets_S), num_rows):
        rows = slice(row, row + num_rows)
        yield reference_SV[rows], candidate_SV[rows], targets_S[rows]


def _compare_block(
    reference_SV: Float32Array, candidate_SV: Float32Array, targets_S: Int32Array
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_]]:
    rows = np.arange(len(targets_S))
    agrees_S = reference_SV.argmax(axis=1) == candidate_SV.argmax(axis=1)
    logp_SV, logq_SV = _log_softmax(reference_SV), _log_softmax(candidate_SV)
    divergence_S = np.einsum("sv,sv->s", np.exp(logp_SV), logp_SV - logq_SV)
    return -logq_SV[rows, targets_S], -logp_SV[rows, targets_S], np.maximum(divergence_S, 0.0), agrees_S


def _log_softmax(logits_SV: Float32Array) -> NDArray[np.float64]:
    values_SV = logits_SV.astype(np.float64)
    if not np.isfinite(values_SV).all():
        raise ModelFileError("model", "its logits are not finite: it cannot be measured")
    values_SV -= values_SV.max(axis=1, keepdims=True)
    values_SV -= np.log(np.exp(values_SV).sum(axis=1, keepdims=True))
    return values_SV
