"""A Hugging Face model directory as one GGUF file.

Matrices are re-encoded a slab of rows at a time, vectors are float32. Names, the order of rotary rows and fused
matrices follow `models/weight_names`, which says where each parameter is in either kind of file; which encoding a
matrix gets is `gguf_mixture`'s.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from math import prod
from os import PathLike
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vivace.core.errors import ConfigError
from vivace.engine.tokenizer import load_tokenizer
from vivace.engine.tokenizer.gguf_entries import gguf_entries
from vivace.formats.checkpoint import Checkpoint, open_safetensors
from vivace.formats.dequantize import dequantize
from vivace.formats.gguf_metadata import MetadataValue
from vivace.formats.gguf_writer import GGUFTensor, write_gguf
from vivace.formats.quantize_fitted import FITTED_ENCODINGS, encode_fitted, input_costs
from vivace.formats.quantize_rtn import encode
from vivace.formats.tensor import StoredTensor, row_bytes
from vivace.models.gguf_description import describe, gguf_spec
from vivace.models.hf_config import read_hf_config
from vivace.models.parameter_shapes import Shape, layer_shapes, model_shapes
from vivace.models.spec import ModelSpec
from vivace.models.weight_names import HF_LM_HEADS, GGUFNames, WeightSource, weight_names
from vivace.quantize.gguf_mixture import Mixture

QUANTIZATION_VERSION = 2  # of ggml's block formats
_SLAB_ELEMENTS = 1 << 22  # 16 MiB of float32 at a time, however large the matrix

Importance = Mapping[str, NDArray[np.float32]]
Progress = Callable[[int, int], None]


def export_gguf(
    directory: str | PathLike[str],
    path: str | PathLike[str],
    encoding: str,
    importance: Importance | None = None,
    *,
    dataset: str = "",
    num_chunks: int = 0,
    imatrix_file: str = "",
    progress: Progress | None = None,
    num_threads: int | None = None,
) -> None:
    """Writes the model of `directory` (safetensors) to `path` as F32, F16, BF16, Q8_0, Q4_0, Q4_K_M, Q5_K_M or Q6_K.

    `importance` is the mean squared activation of each input by the matrix's name, the directory's or GGUF's; a
    matrix without one counts all inputs alike. `dataset` (what it was measured on), `num_chunks` and `imatrix_file`
    (where it was read) are noted in the file. `progress` gets the elements written so far and in all. All threads are
    used unless `num_threads` says less; the bytes do not depend on it. The file appears whole or not at all.

    Raises ConfigError for another encoding or an importance that is not this model's, UnsupportedError for what GGUF
    cannot express, ModelFileError for a broken model.
    """
    directory = Path(directory)
    spec = read_hf_config(directory)
    mixture = Mixture(encoding, spec, has_importance=importance is not None)
    with open_safetensors(directory) as checkpoint:
        metadata, extra = describe(spec, directory.resolve().name)
        metadata["general.file_type"] = mixture.number
        if mixture.is_quantized:
            metadata["general.quantization_version"] = QUANTIZATION_VERSION
        metadata |= _tokenizer(directory, spec)
        exporter = _Exporter(spec, checkpoint, mixture, importance or {}, num_threads or len(os.sched_getaffinity(0)))
        if importance is not None:
            metadata |= _imatrix_note(len(exporter.important_matrices()), dataset, num_chunks, imatrix_file)
        tensors = list(exporter.tensors())
        for name, stored in extra.items():
            tensors.append(GGUFTensor(name, stored.encoding, stored.shape, partial(_given, stored)))
        write_gguf(path, metadata, tensors if progress is None else _reported(tensors, progress))


def gguf_importance(directory: str | PathLike[str], importance: Importance) -> dict[str, NDArray[np.float32]]:
    """The same by GGUF's names, as llama.cpp's files and its quantiser have it. Errors as `export_gguf`."""
    spec = read_hf_config(directory)
    mixture = Mixture("F32", spec, has_importance=True)
    with open_safetensors(directory) as checkpoint:
        return _Exporter(spec, checkpoint, mixture, importance, 1).important_matrices()


def _tokenizer(directory: Path, spec: ModelSpec) -> dict[str, MetadataValue]:
    return gguf_entries(load_tokenizer(directory), directory, spec.vocab_size)


def _imatrix_note(num_entries: int, dataset: str, num_chunks: int, file: str) -> dict[str, MetadataValue]:
    """What llama.cpp's quantiser notes of an importance matrix, under its keys; its `file` where there is one."""
    return {
        **({"quantize.imatrix.file": file} if file else {}),
        "quantize.imatrix.dataset": dataset,
        "quantize.imatrix.entries_count": num_entries,
        "quantize.imatrix.chunks_count": num_chunks,
    }


def _given(stored: StoredTensor) -> StoredTensor:
    return stored


def _reported(tensors: list[GGUFTensor], progress: Progress) -> list[GGUFTensor]:
    """The same, telling `progress` after each."""
    total, done = sum(prod(tensor.shape) for tensor in tensors), 0

    def load(tensor: GGUFTensor) -> StoredTensor:
        nonlocal done
        stored = tensor.load()
        done += prod(tensor.shape)
        progress(done, total)
        return stored

    return [GGUFTensor(one.name, one.encoding, one.shape, partial(load, one)) for one in tensors]


@dataclass(frozen=True, slots=True)
class _Part:
    """A parameter: where it is stored, and where in the GGUF tensor its rows go."""

    parameter: str
    source: WeightSource
    target: WeightSource


class _Exporter:
    def __init__(
        self, spec: ModelSpec, checkpoint: Checkpoint, mixture: Mixture, importance: Importance, num_threads: int
    ) -> None:
        self.spec, self.checkpoint, self.mixture = spec, checkpoint, mixture
        self.importance, self.num_threads = importance, num_threads
        self.sources = weight_names(spec, frozenset(checkpoint.names()))
        self.targets = GGUFNames(gguf_spec(spec))

    def tensors(self) -> Iterator[GGUFTensor]:
        """Every tensor of the file, in the order of the layers."""
        return (self._tensor(*planned) for planned in self._plan())

    def important_matrices(self) -> dict[str, NDArray[np.float32]]:
        """The importance of every matrix that has one, by GGUF's name, once it is known to be sound."""
        found = {}
        for parts, shape, _ in self._plan():
            importance = self._important(parts[0])
            if len(shape) > 1 and importance is not None:
                input_costs(importance, shape[1], parts[0].source.name)
                found[parts[0].target.name] = importance
        if not found:
            raise ConfigError("no name of the importance belongs to this model: calibrate with this very model")
        return found

    def _plan(self) -> Iterator[tuple[list[_Part], Shape, int | None]]:
        """The parts of every tensor, its shape and its layer."""
        of_layer = layer_shapes(self.spec)
        for name, shape in model_shapes(self.spec).items():
            yield [_Part(name, self.sources.model(name), self.targets.model(name))], shape, None
        for layer in range(self.spec.num_layers):
            fused: dict[str, list[_Part]] = {}
            for name, shape in of_layer.items():
                source = self.sources.layer(name, layer, shape[0])
                part = _Part(name, source, self.targets.layer(name, layer, shape[0]))
                fused.setdefault(part.target.name, []).append(part)
            for parts in fused.values():
                rows = parts[0].target.num_stored_rows
                yield parts, (rows, *of_layer[parts[0].parameter][1:]), layer

    def _tensor(self, parts: list[_Part], shape: Shape, layer: int | None) -> GGUFTensor:
        target = parts[0].target
        if len(shape) == 1:
            return GGUFTensor(target.name, "f32", shape, partial(self._vector, parts[0]))
        encoding = self.mixture.encoding(target.name, shape[1], layer)
        return GGUFTensor(target.name, encoding, shape, partial(self._matrix, parts, shape, encoding))

    def _vector(self, part: _Part) -> StoredTensor:
        values = dequantize(self.checkpoint.tensor(part.source.name))
        if part.source.rows is not None:
            values = values[part.source.rows]
        if part.parameter.endswith("norm"):
            values = values + np.float32(self.spec.norm_weight_offset)
        if part.target.rows is not None:
            ordered = np.empty_like(values)
            ordered[part.target.rows] = values
            values = ordered
        return encode(values, "f32", part.target.name)

    def _matrix(self, parts: list[_Part], shape: Shape, encoding: str) -> StoredTensor:
        data = np.empty((shape[0], row_bytes(encoding, shape[1])), np.uint8)
        for part in parts:
            data[slice(None) if part.target.rows is None else part.target.rows] = self._encoded(part, encoding)
        return StoredTensor(parts[0].target.name, encoding, shape, data)

    def _encoded(self, part: _Part, encoding: str) -> NDArray[np.uint8]:
        """The parameter alone, [rows, bytes of a row] in `encoding`."""
        stored = self.checkpoint.tensor(part.source.name)
        if part.source.rows is not None:
            stored = stored.select_rows(part.source.rows)
        if stored.encoding == encoding:
            return stored.data
        rows_at_once = max(1, _SLAB_ELEMENTS // stored.num_columns)
        slabs = [
            self._encoded_slab(stored.select_rows(slice(start, start + rows_at_once)), encoding, part)
            for start in range(0, stored.num_rows, rows_at_once)
        ]
        return np.concatenate(slabs)

    def _encoded_slab(self, slab: StoredTensor, encoding: str, part: _Part) -> NDArray[np.uint8]:
        weights = dequantize(slab)
        if encoding in FITTED_ENCODINGS:
            return encode_fitted(weights, encoding, slab.name, self._important(part), self.num_threads).data
        return encode(weights, encoding, slab.name).data

    def _important(self, part: _Part) -> NDArray[np.float32] | None:
        """The importance of a matrix's inputs; of a tied table, those of the output that it also is."""
        names = [part.source.name, part.target.name]
        if part.parameter == "token_embedding" and self.spec.tied_embeddings:
            names += HF_LM_HEADS
        return next((self.importance[name] for name in names if name in self.importance), None)
