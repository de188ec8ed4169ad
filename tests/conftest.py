"""Fixtures that every folder of tests uses."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared() -> Path:
    """Data beside the project (models, texts, vectors); tests that need it skip where it is absent."""
    directory = Path(os.environ.get("VIVACE_SHARED", Path(__file__).parents[2] / "shared"))
    if not directory.is_dir():
        pytest.skip("no ../shared beside the repository (set VIVACE_SHARED)")
    return directory
