"""The parameters of a decoder as a backend holds them, and how they get there from a checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from vivace.core.errors import ModelFileError
from vivace.formats.dequantize import dequantize
from vivace.formats.fp8_rows import quantize_fp8
from vivace.formats.quantize_rtn import quantize_matrix
from vivace.formats.stored_matrix import Activations, stored_matrix
from vivace.formats.tensor import ENCODINGS, StoredTensor
from vivace.models.dummy import DummyTensors
from vivace.models.parameter_shapes import Shape, layer_shapes, model_shapes
from vivace.models.rope import LongRopeScaling, RopeSpec, inverse_frequencies
from vivace.models.spec import ModelSpec
from vivace.models.weight_names import WeightSource, weight_names
from vivace.ops.backend import Backend
from vivace.ops.program import Weight

Quantization = Literal["f32", "bf16", "int8", "int4", "w8a8", "llm_int8", "fp8"]
Progress = Callable[[int, int], None]  # (parameters done, parameters in all)

QUANTIZED_ENCODINGS: dict[Quantization, str] = {
    "f32": "f32",
    "bf16": "bf16",
    "int8": "q8_0",
    "int4": "q4_0",
    "w8a8": "int8_channel",
    "llm_int8": "int8_outlier",
    "fp8": "fp8_channel",
}
# Rows of 8 bits round a token's activations with one scale: for the layers. lm_head (a tied table) is as for "int8".
ROW_ACTIVATIONS: dict[str, Activations] = {"int8_channel": "token", "int8_outlier": "outlier"}
ROW_ENCODINGS = frozenset((*ROW_ACTIVATIONS, "fp8_channel"))
LM_HEAD_ENCODING = "q8_0"
FLOAT_ENCODINGS = frozenset({"f32", "f16", "bf16"})


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerParameters:
    """One layer. What a family lacks is None."""

    attention_norm: Weight
    q: Weight
    k: Weight
    v: Weight
    o: Weight
    feed_forward_norm: Weight
    gate: Weight
    up: Weight
    down: Weight
    q_bias: Weight | None = None
    k_bias: Weight | None = None
    v_bias: Weight | None = None
    o_bias: Weight | None = None
    gate_bias: Weight | None = None
    up_bias: Weight | None = None
    down_bias: Weight | None = None
    q_norm: Weight | None = None
    k_norm: Weight | None = None
    post_attention_norm: Weight | None = None
    post_feed_forward_norm: Weight | None = None


@dataclass(frozen=True, slots=True)
class RopeFrequencies:
    """Inverse frequencies; `long` are LongRoPE's for long contexts, None elsewhere."""

    short: Weight
    long: Weight | None


@dataclass(frozen=True, slots=True)
class Parameters:
    """All of them. `lm_head` is `token_embedding` itself where embeddings are tied."""

    token_embedding: Weight
    layers: tuple[LayerParameters, ...]
    final_norm: Weight
    lm_head: Weight
    rope: RopeFrequencies
    sliding_rope: RopeFrequencies | None

    @property
    def num_bytes(self) -> int:
        """Bytes of the packed matrices and vectors, a tied table once."""
        weights = {self.token_embedding, self.lm_head, self.final_norm}
        for layer in self.layers:
            weights.update(weight for name in LayerParameters.__slots__ if (weight := getattr(layer, name)))
        return sum(weight.num_bytes for weight in weights)


class CheckpointTensors(Protocol):
    """What `load_parameters` needs of a checkpoint (`vivace.formats.checkpoint.Checkpoint` is one)."""

    path: Path

    def names(self) -> Sequence[str]: ...

    def tensor(self, name: str) -> StoredTensor: ...


class PackedWeights(Protocol):
    """Matrices that an earlier start packed (`vivace.engine.packed_cache.PackedCache`)."""

    def matrix(self, name: str, shape: Shape) -> Weight | None: ...

    def keep(self, weight: Weight) -> None: ...


def load_parameters(
    spec: ModelSpec,
    checkpoint: CheckpointTensors,
    backend: Backend,
    quantization: Quantization | None = None,
    progress: Progress | None = None,
    packed: PackedWeights | None = None,
) -> Parameters:
    """Packs every parameter of `spec` from the checkpoint, one at a time.

    `quantization` re-encodes float matrices that take part in a product (lm_head, and so a tied table, included)
    by round-to-nearest where their width allows; matrices that are stored quantised stay as they are. "w8a8",
    "llm_int8" and "fp8" leave lm_head at int8 by groups. `progress(done, total)` counts parameters. A matrix that
    `packed` holds is not read from the checkpoint; it is told of the others. Raises ModelFileError naming the tensor
    if one is missing or its shape is not the spec's.
    """
    loader = _Loader(spec, checkpoint, backend, quantization, packed)
    return _build(spec, backend, loader.parameter, progress)


def dummy_parameters(
    spec: ModelSpec, backend: Backend, encoding: str, seed: int = 0, progress: Progress | None = None
) -> Parameters:
    """Random parameters for speed work: matrices in `encoding` (a wider one where their width does not allow it),
    each in memory of its own, so that traffic is that of a real model. Equal shapes have equal numbers: packed once,
    then copied.
    """
    source = DummyTensors(encoding, seed)
    storage = backend.packed_storage
    of_kind: dict[tuple[Shape, str], Weight] = {}

    def parameter(name: str, layer: int | None, shape: Shape) -> Weight:
        full_name = parameter_name(name, layer)
        if len(shape) == 1:
            fill = 1.0 if name.endswith("norm") else 0.0
            return backend.vector(full_name, np.full(shape, fill, np.float32))
        kind = (shape, encoding_of(name, encoding))
        if storage is not None and kind in of_kind:
            return storage.copy(full_name, of_kind[kind])
        of_kind[kind] = backend.pack(full_name, source.matrix(full_name, *kind))
        return of_kind[kind]

    return _build(spec, backend, parameter, progress)


def parameter_name(name: str, layer: int | None) -> str:
    """`layers.3.q` or `lm_head`: our own name, whatever the file calls it."""
    return name if layer is None else f"layers.{layer}.{name}"


def encoding_of(name: str, encoding: str) -> str:
    """What the matrix `name` becomes when the model's become `encoding`."""
    is_table = name in ("lm_head", "token_embedding")
    return LM_HEAD_ENCODING if is_table and encoding in ROW_ENCODINGS else encoding


def encoding_in_memory(spec: ModelSpec, name: str, stored: str, num_columns: int, wanted: str | None) -> str:
    """What the matrix `name`, stored as `stored`, becomes when the model's are to become `wanted`, if anything."""
    multiplies = name != "token_embedding" or spec.tied_embeddings
    if wanted is None or not multiplies or stored not in FLOAT_ENCODINGS:
        return stored
    encoding = encoding_of(name, wanted)
    return stored if num_columns % ENCODINGS[encoding][0] else encoding


def _build(
    spec: ModelSpec,
    backend: Backend,
    parameter: Callable[[str, int | None, Shape], Weight],
    progress: Progress | None,
) -> Parameters:
    of_model, of_layer = model_shapes(spec), layer_shapes(spec)
    total = len(of_model) + spec.num_layers * len(of_layer)
    done = count(1)

    def counted(name: str, layer: int | None, shape: Shape) -> Weight:
        weight = parameter(name, layer, shape)
        if progress is not None:
            progress(next(done), total)
        return weight

    model = {name: counted(name, None, shape) for name, shape in of_model.items()}
    layers = tuple(
        LayerParameters(**{name: counted(name, layer, shape) for name, shape in of_layer.items()})
        for layer in range(spec.num_layers)
    )
    sliding = spec.sliding_rope
    return Parameters(
        token_embedding=model["token_embedding"],
        layers=layers,
        final_norm=model["final_norm"],
        lm_head=model.get("lm_head", model["token_embedding"]),
        rope=_rope_frequencies(backend, "rope", spec.rope),
        sliding_rope=None if sliding is None else _rope_frequencies(backend, "sliding_rope", sliding),
    )


def _rope_frequencies(backend: Backend, name: str, rope: RopeSpec) -> RopeFrequencies:
    """The vectors that `build_decoder` chooses from by max_model_len."""
    short = backend.vector(name, inverse_frequencies(rope))
    if not isinstance(rope.scaling, LongRopeScaling):
        return RopeFrequencies(short, None)
    return RopeFrequencies(short, backend.vector(f"{name}.long", inverse_frequencies(rope, long=True)))


class _Loader:
    """Finds, checks and packs the parameters of one checkpoint."""

    def __init__(
        self,
        spec: ModelSpec,
        checkpoint: CheckpointTensors,
        backend: Backend,
        quantization: Quantization | None,
        packed: PackedWeights | None,
    ) -> None:
        self.packed = packed
        self.spec = spec
        self.checkpoint = checkpoint
        self.backend = backend
        self.encoding = None if quantization is None else QUANTIZED_ENCODINGS[quantization]
        self.stored_names = frozenset(checkpoint.names())
        self.sources = weight_names(spec, self.stored_names)
        self._refuse_ignored_tensors()

    def _refuse_ignored_tensors(self) -> None:
        """A bias or norm that the spec does not ask for would be left out in silence, and the text be wrong.

        Biases of zeros pass: AutoGPTQ gave one to every matrix that it packed.
        """
        wanted = layer_shapes(self.spec)
        for name in self.sources.layer_names:
            for layer in range(self.spec.num_layers):
                stored = self.sources.layer(name, layer, 0).name
                if name in wanted or stored not in self.stored_names:
                    continue
                if not name.endswith("_bias") or dequantize(self.checkpoint.tensor(stored)).any():
                    raise ModelFileError(self.checkpoint.path, "the configuration does not ask for it", field=stored)

    def parameter(self, name: str, layer: int | None, shape: Shape) -> Weight:
        full_name = parameter_name(name, layer)
        packed = None if self.packed is None or len(shape) == 1 else self.packed.matrix(full_name, shape)
        if packed is not None:
            return packed
        source = self.sources.model(name) if layer is None else self.sources.layer(name, layer, shape[0])
        stored = self._stored(source, shape)
        if len(shape) == 1:
            return self.backend.vector(full_name, self._vector(name, stored, source))
        matrix = stored if source.rows is None else stored.select_rows(source.rows)
        weight = self.backend.pack(full_name, self._quantized(name, matrix))
        if self.packed is not None:
            self.packed.keep(weight)
        return weight

    def _stored(self, source: WeightSource, shape: Shape) -> StoredTensor:
        if source.name not in self.stored_names:
            raise ModelFileError(self.checkpoint.path, "the model needs this tensor", field=source.name)
        stored = self.checkpoint.tensor(source.name)
        expected = (source.num_stored_rows, *shape[1:])
        if stored.shape != expected:
            reason = f"has shape {stored.shape}, the configuration asks for {expected}"
            raise ModelFileError(self.checkpoint.path, reason, field=source.name)
        return stored

    def _vector(self, name: str, stored: StoredTensor, source: WeightSource) -> NDArray[np.float32]:
        values = dequantize(stored)
        if source.rows is not None:
            values = values[source.rows]
        return values + np.float32(self.spec.norm_weight_offset) if name.endswith("norm") else values

    def _quantized(self, name: str, matrix: StoredTensor) -> StoredTensor:
        encoding = encoding_in_memory(self.spec, name, matrix.encoding, matrix.num_columns, self.encoding)
        if matrix.encoding == encoding:
            return matrix
        if encoding == "fp8_channel":
            return quantize_fp8(matrix.name, dequantize(matrix))
        if encoding not in ROW_ACTIVATIONS:
            return self.backend.encode(matrix, encoding)
        rounded = quantize_matrix(dequantize(matrix), 8, -1, name=matrix.name)
        return stored_matrix(matrix.name, rounded, ROW_ACTIVATIONS[encoding])
