"""Where a model is: nothing (the embedded one), a directory, a GGUF file, an embedded model's name, or a hub name.

What lies on disk under the name given wins over an embedded model of that name.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from vivace.core.errors import ConfigError
from vivace.resources import MODEL_NAMES, embedded_model_path, resource

HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
HUB_FILES = ["*.json", "*.safetensors", "*.jinja", "tokenizer.model", "merges.txt"]


@dataclass(frozen=True, slots=True)
class ModelSource:
    """A model on disk: a Hugging Face directory or one GGUF file."""

    kind: Literal["directory", "gguf"]
    path: Path


def locate(model: str | None) -> ModelSource:
    """Find a model, downloading it when it is a hub name. Raises `ConfigError` saying what was looked for."""
    if model is None:
        return ModelSource("directory", embedded_model_path())
    path = Path(model).expanduser()
    if path.is_dir():
        return ModelSource("directory", path)
    if path.is_file():
        if path.suffix.lower() == ".gguf":
            return ModelSource("gguf", path)
        raise ConfigError(f"{model} is a file but no .gguf: give a Hugging Face directory or a GGUF file")
    if model in MODEL_NAMES:
        return ModelSource("directory", resource(model).path)
    if HUB_NAME.fullmatch(model):
        return ModelSource("directory", _download(model))
    names = " or ".join(MODEL_NAMES)
    raise ConfigError(f"{model} is neither a directory, nor a GGUF file, nor {names}, nor a hub name like owner/name")


def _download(name: str) -> Path:
    from huggingface_hub import snapshot_download  # 60 ms of import that local models do not pay
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, allow_patterns=HUB_FILES))
    except (OSError, HfHubHTTPError, LocalEntryNotFoundError, ValueError) as error:
        first_line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ConfigError(
            f"no directory {name!r} here, and the hub did not give it ({first_line}); "
            "download it where there is a network and name its directory"
        ) from error
