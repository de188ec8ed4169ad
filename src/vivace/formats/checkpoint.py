"""A checkpoint is names and stored tensors, whatever files they come from."""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from vivace.core.errors import ModelFileError
from vivace.formats.gguf import GGUFFile
from vivace.formats.mapped_file import PICKLE_REFUSAL, is_pickle_name
from vivace.formats.model_directory import model_file
from vivace.formats.safetensors import SafetensorsFile
from vivace.formats.safetensors_index import INDEX_NAME, read_weight_map
from vivace.formats.tensor import StoredTensor
from vivace.formats.tensor_table import TensorTable

SINGLE_FILE_NAME = "model.safetensors"


class Checkpoint:
    """Tensors by name, zero-copy. Names are the file's own: `model.layers.0...` in safetensors, `blk.0...` in GGUF.

    `metadata` is GGUF's metadata, or safetensors' `__metadata__` (of a sharded checkpoint: none).
    """

    def __init__(
        self, path: str | PathLike[str], tables: Mapping[str, TensorTable], metadata: Mapping[str, Any]
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
        return self._tables[name].entry(name).shape

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
    """A Hugging Face directory, one safetensors file or one GGUF file (by its suffix)."""
    if Path(path).suffix.lower() == ".gguf" and not Path(path).is_dir():
        return open_gguf(path)
    return open_safetensors(path)


def open_gguf(path: str | PathLike[str]) -> Checkpoint:
    """One GGUF file. A part of a split file is refused, because half a model would look like a broken one."""
    file = GGUFFile.open(path)
    num_parts = file.metadata.get("split.count", 0)
    if isinstance(num_parts, int) and num_parts > 1:
        reason = f"one of {num_parts} parts; join them with `llama-gguf-split --merge`"
        raise ModelFileError(path, reason, field="split.count")
    return Checkpoint(path, dict.fromkeys(file.tensors, file.tensors), file.metadata)


def open_safetensors(path: str | PathLike[str]) -> Checkpoint:
    """One safetensors file, or a directory with `model.safetensors` or shards and their index."""
    if not Path(path).is_dir():
        return _open_single(Path(path))
    single = model_file(path, SINGLE_FILE_NAME)
    if single.exists():
        return _open_single(single)
    if model_file(path, INDEX_NAME).exists():
        return _open_shards(Path(path))
    raise ModelFileError(path, _missing_weights(Path(path)))


def _open_single(path: Path) -> Checkpoint:
    file = SafetensorsFile.open(path)
    return Checkpoint(path, dict.fromkeys(file.tensors, file.tensors), file.metadata)


def _open_shards(directory: Path) -> Checkpoint:
    weight_map = read_weight_map(directory)
    paths = {shard: model_file(directory, shard) for shard in dict.fromkeys(weight_map.values())}
    tables = {shard: SafetensorsFile.open(path).tensors for shard, path in paths.items()}
    for name, shard in weight_map.items():
        if name not in tables[shard]:
            raise ModelFileError(paths[shard], f"lacks this tensor, which {INDEX_NAME} places here", field=name)
    return Checkpoint(directory, {name: tables[shard] for name, shard in weight_map.items()}, {})


def _missing_weights(directory: Path) -> str:
    names = sorted(entry.name for entry in directory.iterdir())
    if gguf_names := [name for name in names if name.lower().endswith(".gguf")]:
        return f"no {SINGLE_FILE_NAME} here; for GGUF name the file itself, for example {gguf_names[0]!r}"
    if any(is_pickle_name(name) for name in names):
        return f"no {SINGLE_FILE_NAME} here, only pickle; {PICKLE_REFUSAL}"
    return f"neither {SINGLE_FILE_NAME} nor {INDEX_NAME} here"
