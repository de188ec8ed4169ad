"""The step of Medusa heads: hidden states of the model's last rows to logits of the tokens behind the next one.

Shape letters: T states, K heads, D hidden, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vivace.core.errors import ConfigError
from vivace.formats.quantize_rtn import encode
from vivace.models.medusa import TOKEN_EPS, MedusaHeads
from vivace.models.parameters import Parameters
from vivace.models.spec import ModelSpec
from vivace.ops.backend import Backend
from vivace.ops.program import Program, Weight


@dataclass(frozen=True, slots=True)
class HeadParameters:
    """b of each head and W, packed: its part for states, and for tokens with the weight of their norm, if any."""

    weights: tuple[Weight, ...]
    biases: tuple[Weight, ...]
    token_weights: tuple[Weight, ...] = ()
    token_norm: Weight | None = None

    @property
    def num_bytes(self) -> int:
        return sum(weight.num_bytes for weight in (*self.weights, *self.biases, *self.token_weights))


def pack_heads(heads: MedusaHeads, spec: ModelSpec, backend: Backend) -> HeadParameters:
    """Heads for the model of `spec`. Raises `ConfigError` where they are another model's."""
    if heads.hidden_size != spec.hidden_size or heads.vocab_size != spec.vocab_size:
        raise ConfigError(
            f"the Medusa heads are for hidden states of {heads.hidden_size} and {heads.vocab_size} tokens, "
            f"the model has {spec.hidden_size} and {spec.vocab_size}: make its own with `vivace train-medusa`"
        )

    def packed(name: str, weights_KDD: NDArray[np.float32]) -> tuple[Weight, ...]:
        return tuple(
            backend.pack(f"medusa.{index}.{name}", encode(np.ascontiguousarray(weight_DD), "bf16"))
            for index, weight_DD in enumerate(weights_KDD)
        )

    width = heads.hidden_size
    weights = packed("weight", heads.weights_KDI[:, :, :width])
    biases = tuple(backend.vector(f"medusa.{index}.bias", bias_D) for index, bias_D in enumerate(heads.biases_KD))
    if not heads.sees_token:
        return HeadParameters(weights, biases)
    norm = backend.vector("medusa.token_norm", np.ones(width, np.float32))
    return HeadParameters(weights, biases, packed("token_weight", heads.weights_KDI[:, :, width:]), norm)


def build_heads(spec: ModelSpec, parameters: Parameters, heads: HeadParameters, num_heads: int) -> Program:
    """Records the first `num_heads` heads: states [T, D] to logits [T * K, V], those of one state side by side. The
    step's tokens are those behind the states."""
    program = Program()
    x = program.given_states(spec.hidden_size)
    z = program.linear(x, heads.weights[:num_heads], heads.biases[:num_heads])
    if heads.token_norm is not None:
        token = program.rms_norm(program.embedding(parameters.token_embedding), heads.token_norm, TOKEN_EPS)
        z = program.add(z, program.linear(token, heads.token_weights[:num_heads]))
    logits = program.linear(program.head_residuals(x, z), (parameters.lm_head,))
    program.output = logits if spec.final_softcap is None else program.softcap(logits, spec.final_softcap)
    return program
