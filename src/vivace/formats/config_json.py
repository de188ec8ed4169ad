"""config.json of a model directory, as a plain object."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vivace.core.errors import ModelFileError

CONFIG_NAME = "config.json"
MAX_CONFIG_BYTES = 4 << 20


def read_config_json(path: Path) -> Mapping[str, Any]:
    """A config.json as an object. NaN and infinities are read, and refused where a number is wanted."""
    try:
        if path.stat().st_size > MAX_CONFIG_BYTES:
            raise ModelFileError(path, f"larger than {MAX_CONFIG_BYTES} bytes")
        config = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise ModelFileError(path, "no such file; a model directory needs its config.json") from error
    except (OSError, ValueError, RecursionError) as error:
        raise ModelFileError(path, f"cannot be read as JSON: {error}") from error
    if not isinstance(config, dict):
        raise ModelFileError(path, "must hold a JSON object")
    return config
