"""What a step must do at least: arithmetic and bytes read, counted from the model's shape.

A token costs two operations for each element of each matrix it meets, and for attention two for each element of a
query with a key and of a weight with a value, over the context. A decode step reads every matrix once, whatever the
batch, and each stream's keys and values; the embedding table is read by the row, hence not counted unless it is the
output matrix too.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from vivace.models.parameter_shapes import layer_shapes
from vivace.models.parameters import Parameters
from vivace.models.spec import ModelSpec
from vivace.ops.backend import KVSpec


@dataclass(frozen=True, slots=True)
class ModelCost:
    """Operations and bytes of one model on one backend."""

    layer_elements: int  # of all layers' matrices
    head_elements: int
    attention_width: int  # query heads * head dimension, over all layers
    matrix_bytes: int  # of everything that a decode step reads once
    kv_bytes_per_token: int

    def prefill_operations(self, prompt_len: int) -> float:
        """Of one prompt; only its last token needs the output matrix."""
        pairs = prompt_len * (prompt_len + 1) / 2
        return 2.0 * prompt_len * self.layer_elements + 2.0 * self.head_elements + 4.0 * self.attention_width * pairs

    def decode_operations(self, context_len: float) -> float:
        """Of one token of one stream."""
        return 2.0 * (self.layer_elements + self.head_elements) + 4.0 * self.attention_width * context_len

    def decode_bytes(self, num_streams: int, context_len: float) -> float:
        """Of one step of `num_streams` streams."""
        return self.matrix_bytes + num_streams * context_len * self.kv_bytes_per_token


def model_cost(spec: ModelSpec, parameters: Parameters, kv_spec: KVSpec) -> ModelCost:
    matrices = [shape for shape in layer_shapes(spec).values() if len(shape) == 2]
    embedding_bytes = 0 if spec.tied_embeddings else parameters.token_embedding.num_bytes
    return ModelCost(
        layer_elements=spec.num_layers * sum(prod(shape) for shape in matrices),
        head_elements=spec.vocab_size * spec.hidden_size,
        attention_width=spec.num_layers * spec.query_size,
        matrix_bytes=parameters.num_bytes - embedding_bytes,
        kv_bytes_per_token=kv_spec.bytes_per_token,
    )
