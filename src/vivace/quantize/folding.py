"""Scales of inputs, folded into what makes these inputs: a norm's weight, or the rows of the matrix before.

Shape letters: N outputs (rows), K inputs (columns).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from vivace.formats.dequantize import dequantize
from vivace.formats.quantize_rtn import encode
from vivace.formats.tensor import StoredTensor
from vivace.quantize.decoder_layer import Floats, StageName
from vivace.quantize.source_model import SourceModel

STAGE_NORMS: dict[StageName, str] = {"qkv": "attention_norm", "gate_up": "feed_forward_norm"}
STAGE_PRODUCERS: dict[StageName, str] = {"o": "v", "down": "up"}  # linear in the rows of these matrices


@dataclass(slots=True)
class LayerScaling:
    """What is changed in one layer before its matrices are rounded; the layer computes the same as before."""

    model: SourceModel
    layer: int
    columns: dict[str, Floats] = field(default_factory=dict)  # a matrix's columns are multiplied by these
    rows: dict[str, Floats] = field(default_factory=dict)  # a matrix's rows are divided by these
    vectors: dict[str, StoredTensor] = field(default_factory=dict)  # norms and biases that take another value

    def weights(self, matrix: str, rows: slice) -> Floats:
        """Some rows of a matrix of the layer, scaled."""
        weights_NK = self.model.values(matrix, self.layer, rows)
        if matrix in self.rows:
            weights_NK = weights_NK / self.rows[matrix][rows, None]
        return weights_NK * self.columns[matrix] if matrix in self.columns else weights_NK

    def changes(self, matrix: str) -> bool:
        """Whether a matrix is other than the file's."""
        return matrix in self.rows or matrix in self.columns

    def layer_vectors(self) -> dict[str, Floats]:
        """Norms and biases as the file will have them."""
        changed = {name: dequantize(stored) for name, stored in self.vectors.items()}
        return self.model.vectors(self.layer) | changed

    def fold_into_norm(self, norm: str, matrices: Sequence[str], scale_K: Floats) -> Floats:
        """Divides a norm's weight by the scale. Returns the scale that it took: the new weight is rounded to what the
        file stores, and the columns follow the rounded one, so that nothing is lost by it."""
        offset = np.float32(self.model.spec.norm_weight_offset)
        stored = self.model.stored(norm, self.layer)
        old = self.model.values(norm, self.layer) + offset
        new_stored = encode(old / scale_K - offset, stored.encoding, stored.name)
        new = dequantize(new_stored) + offset
        usable = (old != 0) & (new != 0) & np.isfinite(new)
        taken = np.where(usable, old / np.where(usable, new, 1), np.float32(1)).astype(np.float32)
        self.vectors[norm] = encode(np.where(usable, new - offset, old - offset), stored.encoding, stored.name)
        self.columns |= dict.fromkeys(matrices, taken)
        return taken

    def fold_into_rows(self, producer: str, consumer: str, scale_K: Floats) -> None:
        """Divides the rows (and bias) of `producer`, multiplies the columns of `consumer`.

        From v to o, all query heads of a key/value head must have equal scales.
        """
        spec = self.model.spec
        rows_N = scale_K
        if producer == "v":
            per_kv = spec.num_heads // spec.num_kv_heads
            rows_N = scale_K.reshape(spec.num_kv_heads, per_kv, spec.head_dim)[:, 0].reshape(-1)
        self.rows[producer] = rows_N
        self.columns[consumer] = scale_K
        bias = f"{producer}_bias"
        if bias in self.model.layer_shapes:
            stored = self.model.stored(bias, self.layer)
            self.vectors[bias] = encode(self.model.values(bias, self.layer) / rows_N, stored.encoding, stored.name)


def shared_by_heads(model: SourceModel, mean_K: Floats) -> Floats:
    """Means over the query heads of each key/value head, repeated: what inputs of o may be scaled by."""
    spec = model.spec
    grouped = mean_K.reshape(spec.num_kv_heads, -1, spec.head_dim).mean(axis=1, keepdims=True)
    repeats = spec.num_heads // spec.num_kv_heads
    return np.repeat(grouped, repeats, axis=1).reshape(-1)
