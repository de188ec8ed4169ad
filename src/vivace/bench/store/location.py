"""Where results are kept unless somebody says otherwise."""

from __future__ import annotations

import os
from pathlib import Path


def default_store_path() -> Path:
    """$VIVACE_STORE, else vivace/results.sqlite under $XDG_DATA_HOME, else under ~/.local/share. Not created here."""
    if path := os.environ.get("VIVACE_STORE"):
        return Path(path)
    home = os.environ.get("XDG_DATA_HOME", "")
    base = Path(home) if os.path.isabs(home) else Path.home() / ".local" / "share"  # XDG: ignore relative paths
    return base / "vivace" / "results.sqlite"
