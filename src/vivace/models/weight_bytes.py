"""How many bytes a model's weights take in a device's memory, at least: from headers alone, before any is read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

from vivace.formats.tensor import ENCODINGS, ROW_HEADER_BYTES
from vivace.models.dummy import fitting_encoding
from vivace.models.parameter_shapes import Shape, layer_shapes, model_shapes
from vivace.models.parameters import QUANTIZED_ENCODINGS, Quantization, encoding_in_memory, encoding_of
from vivace.models.spec import ModelSpec
from vivace.models.weight_names import WeightNames, WeightSource, weight_names

FLOAT_BYTES = 4  # of vectors


class CheckpointSizes(Protocol):
    """What is asked of a checkpoint (`vivace.formats.checkpoint.Checkpoint` is one)."""

    def names(self) -> Sequence[str]: ...

    def size(self, name: str) -> tuple[str | None, int]: ...


def least_weight_bytes(spec: ModelSpec, checkpoint: CheckpointSizes, quantization: Quantization | None) -> int:
    """Of the matrices as they are stored, or by round-to-nearest where they are re-encoded; of those that several
    tensors hold, as GPTQ's, the codes alone. What the file lacks counts nothing: loading says so."""
    wanted = None if quantization is None else QUANTIZED_ENCODINGS[quantization]
    names = frozenset(checkpoint.names())
    total = sum(FLOAT_BYTES * count * shape[0] for _, count, shape in _shapes(spec) if len(shape) == 1)
    for name, source, shape in _matrices(spec, weight_names(spec, names)):
        if source.name not in names:
            continue
        stored, num_bytes = checkpoint.size(source.name)
        if stored is None:
            total += num_bytes * shape[0] // source.num_stored_rows
        else:
            total += _matrix_bytes(encoding_in_memory(spec, name, stored, shape[1], wanted), shape)
    return total


def dummy_weight_bytes(spec: ModelSpec, encoding: str) -> int:
    """Of random weights in this encoding."""
    total = 0
    for name, count, shape in _shapes(spec):
        if len(shape) == 1:
            total += FLOAT_BYTES * count * shape[0]
        else:
            total += count * _matrix_bytes(fitting_encoding(encoding_of(name, encoding), shape[1]), shape)
    return total


def _matrix_bytes(encoding: str, shape: Shape) -> int:
    """Of whole blocks: a file whose shapes are not the model's is another one's to refuse."""
    block_elements, block_bytes = ENCODINGS[encoding]
    return shape[0] * (ROW_HEADER_BYTES.get(encoding, 0) + shape[1] // block_elements * block_bytes)


def _shapes(spec: ModelSpec) -> Iterator[tuple[str, int, Shape]]:
    yield from ((name, 1, shape) for name, shape in model_shapes(spec).items())
    yield from ((name, spec.num_layers, shape) for name, shape in layer_shapes(spec).items())


def _matrices(spec: ModelSpec, sources: WeightNames) -> Iterator[tuple[str, WeightSource, Shape]]:
    for name, shape in model_shapes(spec).items():
        if len(shape) == 2:
            yield name, sources.model(name), shape
    for name, shape in layer_shapes(spec).items():
        if len(shape) == 2:
            yield from ((name, sources.layer(name, layer, shape[0]), shape) for layer in range(spec.num_layers))
