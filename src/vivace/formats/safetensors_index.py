"""`model.safetensors.index.json`: which shard holds which tensor."""

from __future__ import annotations

import sys
from os import PathLike
from pathlib import Path

from vivace.core.errors import ModelFileError
from vivace.formats.json_text import JsonText
from vivace.formats.mapped_file import PICKLE_REFUSAL, is_pickle_name, map_file
from vivace.formats.model_directory import model_file
from vivace.formats.safetensors import MAX_HEADER_BYTES

INDEX_NAME = "model.safetensors.index.json"
MAX_INDEXED = 1 << 20  # tensors of all shards
MAX_METADATA_CHARS = 1 << 20  # `total_size` and the like
_MAX_NAME_CHARS = 4096  # of a shard's file
MAX_SHARDS = 4096  # the largest public checkpoints have a few hundred


def read_weight_map(directory: str | PathLike[str]) -> dict[str, str]:
    """Tensor name to shard file name; at most MAX_SHARDS shards, none a pickle. Paths are `model_file`'s to judge."""
    path = model_file(directory, INDEX_NAME)
    octets = map_file(path)
    if len(octets) > MAX_HEADER_BYTES:
        raise ModelFileError(path, f"{len(octets)} bytes; at most {MAX_HEADER_BYTES} are read")
    weight_map: dict[str, str] = {}
    text = JsonText(octets, path)
    for key in text.members():
        if key == "weight_map" and text.is_at_object():
            weight_map = _shards_by_name(text, path)
        else:
            text.value(MAX_METADATA_CHARS, key[:200])
    text.end()
    if not weight_map:
        raise ModelFileError(path, "must map tensor names to shard files", field="weight_map")
    num_shards = len(set(weight_map.values()))
    if num_shards > MAX_SHARDS:
        raise ModelFileError(path, f"{num_shards} shards; at most {MAX_SHARDS} are opened", field="weight_map")
    return weight_map


def _shards_by_name(text: JsonText, path: Path) -> dict[str, str]:
    weight_map: dict[str, str] = {}
    for name in text.members():
        shard = text.value(_MAX_NAME_CHARS, name[:200])
        if not isinstance(shard, str):
            raise ModelFileError(path, f"the shard is not a file name but {shard!r:.40}", field=name)
        if is_pickle_name(shard):
            raise ModelFileError(path, PICKLE_REFUSAL, field=name)
        if len(weight_map) == MAX_INDEXED:
            raise ModelFileError(path, f"more than {MAX_INDEXED} tensors", field="weight_map")
        weight_map[name] = sys.intern(shard)
    return weight_map
