"""A Hugging Face model directory as one GGUF file.

Matrices are re-encoded one at a time by round-to-nearest, vectors are float32. Names, the order of rotary rows and
fused matrices follow `models/weight_names`, which says where each parameter is in either kind of file.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from os import PathLike
from pathlib import Path

import numpy as np

from vivace.core.errors import ConfigError
from vivace.engine.tokenizer import load_tokenizer
from vivace.engine.tokenizer.gguf_entries import gguf_entries
from vivace.formats.checkpoint import Checkpoint, open_safetensors
from vivace.formats.dequantize import dequantize
from vivace.formats.gguf_metadata import MetadataValue
from vivace.formats.gguf_writer import GGUFTensor, write_gguf
from vivace.formats.quantize_rtn import encode
from vivace.formats.tensor import ENCODINGS, StoredTensor
from vivace.models.gguf_description import describe, gguf_spec
from vivace.models.hf_config import read_hf_config
from vivace.models.parameter_shapes import Shape, layer_shapes, model_shapes
from vivace.models.spec import ModelSpec
from vivace.models.weight_names import GGUFNames, WeightSource, weight_names

FILE_TYPES = {"f32": 0, "f16": 1, "q4_0": 2, "q8_0": 7, "bf16": 32}  # llama.cpp's `general.file_type`
QUANTIZATION_VERSION = 2  # of ggml's block formats


def export_gguf(directory: str | PathLike[str], path: str | PathLike[str], encoding: str) -> None:
    """Writes the model of `directory` (safetensors) to `path`, its matrices as f32, f16, bf16, q8_0 or q4_0.

    A matrix whose rows hold no whole blocks keeps the encoding that it is stored in. Raises ConfigError for another
    encoding, UnsupportedError for what GGUF cannot express, ModelFileError for a broken model.
    """
    if encoding not in FILE_TYPES:
        raise ConfigError(f"encoding {encoding!r} cannot be written; known are {', '.join(FILE_TYPES)}")
    directory = Path(directory)
    spec = read_hf_config(directory)
    with open_safetensors(directory) as checkpoint:
        metadata, extra = describe(spec, directory.resolve().name)
        metadata["general.file_type"] = FILE_TYPES[encoding]
        if ENCODINGS[encoding][0] > 1:
            metadata["general.quantization_version"] = QUANTIZATION_VERSION
        metadata |= _tokenizer(directory, spec)
        tensors = list(_Exporter(spec, checkpoint, encoding).tensors())
        for name, stored in extra.items():
            tensors.append(GGUFTensor(name, stored.encoding, stored.shape, partial(_given, stored)))
        write_gguf(path, metadata, tensors)


def _tokenizer(directory: Path, spec: ModelSpec) -> dict[str, MetadataValue]:
    return gguf_entries(load_tokenizer(directory), directory, spec.vocab_size)


def _given(stored: StoredTensor) -> StoredTensor:
    return stored


@dataclass(frozen=True, slots=True)
class _Part:
    """A parameter: where it is stored, and where in the GGUF tensor its rows go."""

    parameter: str
    source: WeightSource
    target: WeightSource


class _Exporter:
    def __init__(self, spec: ModelSpec, checkpoint: Checkpoint, encoding: str) -> None:
        self.spec, self.checkpoint, self.encoding = spec, checkpoint, encoding
        self.sources = weight_names(spec, frozenset(checkpoint.names()))
        self.targets = GGUFNames(gguf_spec(spec))

    def tensors(self) -> Iterator[GGUFTensor]:
        """Every tensor of the file, in the order of the layers."""
        of_layer = layer_shapes(self.spec)
        for name, shape in model_shapes(self.spec).items():
            yield self._tensor([_Part(name, self.sources.model(name), self.targets.model(name))], shape)
        for layer in range(self.spec.num_layers):
            fused: dict[str, list[_Part]] = {}
            for name, shape in of_layer.items():
                source = self.sources.layer(name, layer, shape[0])
                part = _Part(name, source, self.targets.layer(name, layer, shape[0]))
                fused.setdefault(part.target.name, []).append(part)
            for parts in fused.values():
                yield self._tensor(parts, of_layer[parts[0].parameter])

    def _tensor(self, parts: list[_Part], shape: Shape) -> GGUFTensor:
        """`shape` is the first part's; a fused matrix has the rows of all."""
        target = parts[0].target
        shape = (target.num_stored_rows, *shape[1:])
        return GGUFTensor(target.name, self._encoding(parts[0], shape), shape, partial(self._load, parts, shape))

    def _encoding(self, part: _Part, shape: Shape) -> str:
        if len(shape) == 1:
            return "f32"
        if shape[-1] % ENCODINGS[self.encoding][0]:
            return self.checkpoint.tensor(part.source.name).encoding
        return self.encoding

    def _load(self, parts: list[_Part], shape: Shape) -> StoredTensor:
        encoding, name = self._encoding(parts[0], shape), parts[0].target.name
        stored = [self._stored(part, encoding) for part in parts]
        if len(shape) == 1:
            return encode(self._vector(parts[0], stored[0]), "f32", name)
        rows = [
            np.arange(shape[0])[part.target.rows] if part.target.rows is not None else np.arange(shape[0])
            for part in parts
        ]
        data = np.empty((shape[0], stored[0].data.shape[1]), np.uint8)
        for at, matrix in zip(rows, stored, strict=True):
            data[at] = matrix.data
        return StoredTensor(name, encoding, shape, data)

    def _stored(self, part: _Part, encoding: str) -> StoredTensor:
        """The parameter alone, in `encoding`; a vector as it is stored."""
        stored = self.checkpoint.tensor(part.source.name)
        if len(stored.shape) == 1:
            return stored
        if part.source.rows is not None:
            stored = stored.select_rows(part.source.rows)
        return stored if stored.encoding == encoding else encode(dequantize(stored), encoding, stored.name)

    def _vector(self, part: _Part, stored: StoredTensor) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
        """Float32, with the offset that GGUF stores in norms, and biases of q and k in the order of their rows."""
        values = dequantize(stored)
        if part.parameter.endswith("norm"):
            return values + np.float32(self.spec.norm_weight_offset)
        if part.target.rows is None:
            return values
        ordered = np.empty_like(values)
        ordered[part.target.rows] = values
        return ordered
