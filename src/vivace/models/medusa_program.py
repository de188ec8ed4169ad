"""The step of Medusa heads: hidden states of the model's last rows to logits of the tokens behind the next one.

Shape letters: T states, K heads, D hidden, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

from vivace.core.errors import ConfigError
from vivace.formats.quantize_rtn import encode
from vivace.models.medusa import MedusaHeads
from vivace.models.parameters import Parameters
from vivace.models.spec import ModelSpec
from vivace.ops.backend import Backend
from vivace.ops.program import Program, Weight


@dataclass(frozen=True, slots=True)
class HeadParameters:
    """W and b of each head, packed."""

    weights: tuple[Weight, ...]
    biases: tuple[Weight, ...]

    @property
    def num_bytes(self) -> int:
        return sum(weight.num_bytes for weight in (*self.weights, *self.biases))


def pack_heads(heads: MedusaHeads, spec: ModelSpec, backend: Backend) -> HeadParameters:
    """Heads for the model of `spec`. Raises `ConfigError` where they are another model's."""
    if heads.hidden_size != spec.hidden_size or heads.vocab_size != spec.vocab_size:
        raise ConfigError(
            f"the Medusa heads are for hidden states of {heads.hidden_size} and {heads.vocab_size} tokens, "
            f"the model has {spec.hidden_size} and {spec.vocab_size}: make its own with `vivace train-medusa`"
        )
    return HeadParameters(
        tuple(
            backend.pack(f"medusa.{index}.weight", encode(weight_DD, "bf16"))
            for index, weight_DD in enumerate(heads.weights_KDD)
        ),
        tuple(backend.vector(f"medusa.{index}.bias", bias_D) for index, bias_D in enumerate(heads.biases_KD)),
    )


def build_heads(spec: ModelSpec, parameters: Parameters, heads: HeadParameters, num_heads: int) -> Program:
    """Records the first `num_heads` heads: states [T, D] to logits [T * K, V], those of one state side by side."""
    program = Program()
    x = program.given_states(spec.hidden_size)
    z = program.linear(x, heads.weights[:num_heads], heads.biases[:num_heads])
    logits = program.linear(program.head_residuals(x, z), (parameters.lm_head,))
    program.output = logits if spec.final_softcap is None else program.softcap(logits, spec.final_softcap)
    return program
