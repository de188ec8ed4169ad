"""`model.safetensors.index.json`: which shard holds which tensor."""

from __future__ import annotations

from os import PathLike

from vivace.core.errors import ModelFileError
from vivace.formats.mapped_file import PICKLE_REFUSAL, is_pickle_name, map_file
from vivace.formats.model_directory import model_file
from vivace.formats.safetensors import MAX_HEADER_BYTES, parse_json_object

INDEX_NAME = "model.safetensors.index.json"
MAX_SHARDS = 4096  # the largest public checkpoints have a few hundred


def read_weight_map(directory: str | PathLike[str]) -> dict[str, str]:
    """Tensor name to shard file name; at most MAX_SHARDS shards, none a pickle. Paths are `model_file`'s to judge."""
    path = model_file(directory, INDEX_NAME)
    text = map_file(path)
    if len(text) > MAX_HEADER_BYTES:
        raise ModelFileError(path, f"{len(text)} bytes; at most {MAX_HEADER_BYTES} are read")
    weight_map = parse_json_object(bytes(text), path).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise ModelFileError(path, "must map tensor names to shard files", field="weight_map")
    for name, shard in weight_map.items():
        if not isinstance(shard, str):
            raise ModelFileError(path, f"the shard is not a file name but {shard!r:.40}", field=name)
        if is_pickle_name(shard):
            raise ModelFileError(path, PICKLE_REFUSAL, field=name)
    num_shards = len(set(weight_map.values()))
    if num_shards > MAX_SHARDS:
        raise ModelFileError(path, f"{num_shards} shards; at most {MAX_SHARDS} are opened", field="weight_map")
    return weight_map
