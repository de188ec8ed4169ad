"""Where files live that can be made again: packed weights, measured tile sizes."""

from __future__ import annotations

import os
from pathlib import Path

CACHE_VARIABLE = "VIVACE_CACHE"


def cache_directory() -> Path:
    """$VIVACE_CACHE, else $XDG_CACHE_HOME/vivace, else ~/.cache/vivace. Not created here; it may not be writable."""
    chosen = os.environ.get(CACHE_VARIABLE)
    if chosen:
        return Path(chosen)
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "vivace"
