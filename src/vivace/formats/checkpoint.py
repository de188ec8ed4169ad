"""A checkpoint is names and stored tensors, whatever files they come from."""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from vivace.core.errors import ModelFileError
from vivace.formats.gguf import MAGIC, GGUFFile
from vivace.formats.mapped_file import PICKLE_REFUSAL, is_pickle_name, map_file
from vivace.formats.model_directory import model_file
from vivace.formats.quantized_checkpoint import QuantizedTensors, with_quantized_weights
from vivace.formats.safetensors import SafetensorsFile
from vivace.formats.safetensors_index import INDEX_NAME, read_weight_map
from vivace.formats.tensor import StoredTensor
from vivace.formats.tensor_table import TensorSource

SINGLE_FILE_NAME = "model.safetensors"


class Checkpoint:
    """Tensors by name, zero-copy. Names are the file's own: `model.layers.0...` in safetensors, `blk.0...` in GGUF.
    A quantised matrix that safetensors holds in several tensors (GPTQ, AWQ...) is one, `….weight`, unpacked anew on
    each call.

    `metadata` is GGUF's metadata, or safetensors' `__metadata__` (of a sharded checkpoint: none).
    """

    def __init__(
        self, path: str | PathLike[str], tables: Mapping[str, TensorSource], metadata: Mapping[str, Any]
    ) -> None:
        self.path = Path(path)
        self.metadata = metadata
        self._tables = tables

    def names(self) -> tuple[str, ...]:
        """Every tensor, in the file's order; those of types that cannot be weights too."""
        return tuple(self._tables)

    def tensor(self, name: str) -> StoredTensor:
        """A view. Raises ModelFileError if there is no such tensor or its type cannot be a weight."""
        if name not in self._tables:
            raise ModelFileError(self.path, "the checkpoint has no such tensor", field=name)
        return self._tables[name][name]

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape alone, of any type. Raises ModelFileError if there is no such tensor."""
        if name not in self._tables:
            raise ModelFileError(self.path, "the checkpoint has no such tensor", field=name)
        return self._tables[name].shape(name)

    def size(self, name: str) -> tuple[str | None, int]:
        """Encoding and bytes by the header, without reading; None and the bytes of the codes of a quantised matrix
        that several tensors hold. Raises KeyError if there is no such tensor."""
        return self._tables[name].size(name)

    @property
    def holds_fp8(self) -> bool:
        """Whether quantised matrices are 8-bit floats."""
        return any(isinstance(table, QuantizedTensors) and table.holds_fp8 for table in self._tables.values())

    def __contains__(self, name: object) -> bool:
        return name in self._tables

    def close(self) -> None:
        """Lets go of the files; tensors already handed out stay valid."""
        for table in {id(table): table for table in self._tables.values()}.values():
            table.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def open_checkpoint(path: str | PathLike[str]) -> Checkpoint:
    """A Hugging Face directory, one safetensors file or one GGUF file (told by its magic, whatever its name)."""
    if Path(path).is_dir():
        return open_safetensors(path)
    buffer = map_file(path)
    if bytes(buffer[: len(MAGIC)]) == MAGIC or Path(path).suffix.lower() == ".gguf":
        return _gguf_checkpoint(GGUFFile.parse(buffer, path), path)
    return _safetensors_checkpoint(SafetensorsFile.parse(buffer, path), path)


def open_gguf(path: str | PathLike[str]) -> Checkpoint:
    """One GGUF file. A part of a split file is refused, because half a model would look like a broken one."""
    return _gguf_checkpoint(GGUFFile.open(path), path)


def open_safetensors(path: str | PathLike[str]) -> Checkpoint:
    """One safetensors file, or a directory with `model.safetensors` or shards and their index.

    Quantised weights are understood in directories, whose config.json says how they are stored.
    """
    if not Path(path).is_dir():
        return _safetensors_checkpoint(SafetensorsFile.open(path), path)
    single = model_file(path, SINGLE_FILE_NAME)
    if single.exists():
        file = SafetensorsFile.open(single)
        tables = with_quantized_weights(Path(path), dict.fromkeys(file.tensors, file.tensors))
        return Checkpoint(single, tables, file.metadata)
    if model_file(path, INDEX_NAME).exists():
        return _open_shards(Path(path))
    raise ModelFileError(path, _missing_weights(Path(path)))


def _gguf_checkpoint(file: GGUFFile, path: str | PathLike[str]) -> Checkpoint:
    num_parts = file.metadata.get("split.count", 0)
    if isinstance(num_parts, int) and num_parts > 1:
        reason = f"one of {num_parts} parts; join them with `llama-gguf-split --merge`"
        raise ModelFileError(path, reason, field="split.count")
    return Checkpoint(path, dict.fromkeys(file.tensors, file.tensors), file.metadata)


def _safetensors_checkpoint(file: SafetensorsFile, path: str | PathLike[str]) -> Checkpoint:
    return Checkpoint(path, dict.fromkeys(file.tensors, file.tensors), file.metadata)


def _open_shards(directory: Path) -> Checkpoint:
    weight_map = read_weight_map(directory)
    paths = {shard: model_file(directory, shard) for shard in dict.fromkeys(weight_map.values())}
    tables = {shard: SafetensorsFile.open(path).tensors for shard, path in paths.items()}
    for name, shard in weight_map.items():
        if name not in tables[shard]:
            raise ModelFileError(paths[shard], f"lacks this tensor, which {INDEX_NAME} places here", field=name)
    by_name = {name: tables[shard] for name, shard in weight_map.items()}
    return Checkpoint(directory, with_quantized_weights(directory, by_name), {})


def _missing_weights(directory: Path) -> str:
    names = sorted(entry.name for entry in directory.iterdir())
    if gguf_names := [name for name in names if name.lower().endswith(".gguf")]:
        return f"no {SINGLE_FILE_NAME} here; for GGUF name the file itself, for example {gguf_names[0]!r}"
    if any(is_pickle_name(name) for name in names):
        return f"no {SINGLE_FILE_NAME} here, only pickle; {PICKLE_REFUSAL}"
    return f"neither {SINGLE_FILE_NAME} nor {INDEX_NAME} here"
