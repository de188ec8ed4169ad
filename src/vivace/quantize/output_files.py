"""What an output folder holds beside the layers' shards: the rest of the weights, index, config.json, tokenizer."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vivace.formats.atomic_file import atomic_writer
from vivace.formats.config_json import CONFIG_NAME, read_config_json
from vivace.formats.safetensors_index import INDEX_NAME
from vivace.formats.safetensors_writer import write_safetensors
from vivace.quantize.source_model import SourceModel

COMPANIONS = ("*.json", "*.model", "*.jinja", "merges.txt", "vocab.txt")  # tokenizer, template, generation defaults
MAX_COMPANION_BYTES = 64 << 20


def shard_name(index: int, num_layers: int) -> str:
    """Shard 0 .. num_layers - 1 are the layers', the last one has what lies outside of them."""
    return f"model-{index + 1:05}-of-{num_layers + 1:05}.safetensors"


def write_rest(model: SourceModel, directory: Path) -> list[str]:
    """Embedding, last norm and lm_head, as they are stored. Returns the tensors' names."""
    tensors = {model.source(parameter).name: model.stored(parameter) for parameter in model.model_shapes}
    num_layers = model.spec.num_layers
    write_safetensors(directory / shard_name(num_layers, num_layers), tensors, {"format": "pt"})
    return list(tensors)


def write_index(directory: Path, names_of_shard: Mapping[str, list[str]]) -> None:
    """`model.safetensors.index.json`."""
    weight_map = {name: shard for shard, names in names_of_shard.items() for name in names}
    total = sum((directory / shard).stat().st_size for shard in names_of_shard)
    _write_json(directory / INDEX_NAME, {"metadata": {"total_size": total}, "weight_map": weight_map})


def write_config(model: SourceModel, directory: Path, quantization: dict[str, Any] | None) -> None:
    """The model's config.json with what was done to its weights."""
    config = dict(read_config_json(model.directory / CONFIG_NAME))
    if quantization is not None:
        config["quantization_config"] = quantization
    _write_json(directory / CONFIG_NAME, config)


def copy_companions(model: SourceModel, directory: Path) -> None:
    """Tokenizer, chat template and generation defaults, as they are."""
    for pattern in COMPANIONS:
        for path in sorted(model.directory.glob(pattern)):
            named_by_us = path.name == CONFIG_NAME or path.name.endswith(".index.json")
            if not named_by_us and path.is_file() and path.stat().st_size <= MAX_COMPANION_BYTES:
                shutil.copyfile(path, directory / path.name)


def num_weight_bytes(directory: Path) -> int:
    """Bytes of a folder's safetensors files."""
    return sum(path.stat().st_size for path in directory.glob("*.safetensors"))


def _write_json(path: Path, value: object) -> None:
    with atomic_writer(path) as file:
        file.write((json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode())
