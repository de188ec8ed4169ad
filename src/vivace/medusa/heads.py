"""Losses, gradients and ranks of Medusa heads, in float32 NumPy.

Shape letters: B examples, K heads, D hidden, I inputs of a head (the state's D first), V vocabulary. Logits exist for
some rows at a time only: [B, V] at a vocabulary of 128k would be gigabytes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vivace.models.medusa import TOKEN_EPS

Float = NDArray[np.float32]
Int = NDArray[np.int32]
LOGITS_AT_ONCE = 1 << 23  # elements: 32 MB, and as much again for the exponentials


@dataclass(frozen=True, slots=True, eq=False)
class FrozenHead:
    """The model's own way from a hidden state to logits: table_VD, then tanh capping (Gemma 2) if any."""

    table_VD: Float
    softcap: float | None

    @property
    def rows_at_once(self) -> int:
        return max(1, LOGITS_AT_ONCE // len(self.table_VD))

    def logits(self, hidden_BD: Float) -> Float:
        logits_BV = hidden_BD @ self.table_VD.T
        if self.softcap is not None:
            np.tanh(logits_BV / np.float32(self.softcap), out=logits_BV)
            logits_BV *= np.float32(self.softcap)
        return logits_BV

    def loss(self, hidden_BD: Float, labels_B: Int) -> tuple[float, Float]:
        """Summed cross entropy in nats, and its gradient [B, D] with respect to the hidden states."""
        rows = np.arange(len(labels_B))
        logits_BV = self.logits(hidden_BD)
        slope_BV: Float | None = None
        if self.softcap is not None:
            slope_BV = np.float32(1) - np.square(logits_BV / np.float32(self.softcap))
        logits_BV -= logits_BV.max(axis=1, keepdims=True)
        chosen_B = logits_BV[rows, labels_B]
        np.exp(logits_BV, out=logits_BV)
        sums_B = logits_BV.sum(axis=1)
        loss = float(np.sum(np.log(sums_B) - chosen_B, dtype=np.float64))
        logits_BV /= sums_B[:, None]
        logits_BV[rows, labels_B] -= 1  # d loss / d logits: probabilities less the truth
        if slope_BV is not None:
            logits_BV *= slope_BV
        gradient_BD: Float = logits_BV @ self.table_VD
        return loss, gradient_BD


def token_inputs(table_VD: Float) -> Float:
    """[V, D]: what a head sees of a token, its embedding over the root of its mean square."""
    scaled: Float = table_VD / np.sqrt(np.mean(np.square(table_VD), axis=1, keepdims=True) + np.float32(TOKEN_EPS))
    return scaled


def head_output(inputs_BI: Float, weight_DI: Float, bias_D: Float) -> tuple[Float, Float]:
    """x + silu(z) and z = W inputs + b, x being the first D inputs."""
    z_BD = inputs_BI @ weight_DI.T + bias_D
    return inputs_BI[:, : len(bias_D)] + z_BD * sigmoid(z_BD), z_BD


def sigmoid(z: Float) -> Float:
    """1 / (1 + exp(-z)), through tanh, which cannot overflow."""
    half = np.float32(0.5)
    result: Float = half * np.tanh(half * z) + half
    return result


def head_gradient(
    inputs_BI: Float, weight_DI: Float, bias_D: Float, labels_B: Int, frozen: FrozenHead
) -> tuple[float, Float, Float]:
    """Mean cross entropy of one head in nats, and its gradients with respect to weight and bias."""
    num_examples = len(labels_B)
    output_BD, z_BD = head_output(inputs_BI, weight_DI, bias_D)
    loss, d_output_BD = 0.0, np.empty_like(output_BD)
    for start in range(0, num_examples, frozen.rows_at_once):
        rows = slice(start, start + frozen.rows_at_once)
        part, d_output_BD[rows] = frozen.loss(output_BD[rows], labels_B[rows])
        loss += part
    gate_BD = sigmoid(z_BD)
    d_z_BD: Float = d_output_BD * (gate_BD * (1 + z_BD * (1 - gate_BD))) / np.float32(num_examples)
    return loss / num_examples, d_z_BD.T @ inputs_BI, d_z_BD.sum(axis=0)


def label_ranks(hidden_BD: Float, labels_B: Int, frozen: FrozenHead) -> Int:
    """How many tokens have larger logits than the true one: 0 where it is the first guess."""
    ranks = np.empty(len(labels_B), np.int32)
    for start in range(0, len(labels_B), frozen.rows_at_once):
        rows = slice(start, start + frozen.rows_at_once)
        logits_BV = frozen.logits(hidden_BD[rows])
        chosen_B = np.take_along_axis(logits_BV, labels_B[rows, None].astype(np.intp), axis=1)
        ranks[rows] = (logits_BV > chosen_B).sum(axis=1)
    return ranks


class Adam:
    """Adam (Kingma and Ba, 2015) on arrays in place, without weight decay: a head that does nothing is a good start,
    and zero is where it does nothing."""

    beta_1, beta_2, epsilon = 0.9, 0.95, 1e-8

    def __init__(self, moments: list[tuple[Float, Float]]) -> None:
        self.moments = moments

    def step(self, parameters: list[Float], gradients: list[Float], learning_rate: float, step: int) -> None:
        """`step` counts from 1."""
        scale = learning_rate / (1 - self.beta_1**step)
        correction = 1 - self.beta_2**step
        for parameter, gradient, (first, second) in zip(parameters, gradients, self.moments, strict=True):
            first += np.float32(1 - self.beta_1) * (gradient - first)
            second += np.float32(1 - self.beta_2) * (np.square(gradient) - second)
            root = np.sqrt(second / np.float32(correction)) + np.float32(self.epsilon)
            parameter -= np.float32(scale) * first / root
