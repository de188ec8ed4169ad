"""What every test may ask for."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared() -> Path:
    """The data beside the repository (`../shared`, or what VIVACE_SHARED names)."""
    beside = Path(__file__).parents[1] / ".." / "shared"
    directory = Path(os.environ.get("VIVACE_SHARED", beside)).resolve()
    if not directory.is_dir():
        pytest.skip(f"no data directory {directory}; set VIVACE_SHARED")
    return directory
