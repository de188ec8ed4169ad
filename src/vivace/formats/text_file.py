"""Text that people name: read whole, written whole or not at all, and one message for what cannot be."""

from __future__ import annotations

from os import PathLike
from pathlib import Path

from vivace.core.errors import ConfigError
from vivace.formats.atomic_file import atomic_writer


def read_text(path: str | PathLike[str]) -> str:
    """UTF-8, its bytes as they are. Raises `ConfigError` for a file that cannot be read, or holds something else."""
    try:
        return Path(path).read_bytes().decode()
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 text (byte {error.start})") from None


def write_text(path: str | PathLike[str], text: str) -> None:
    """The new content or the old one, never half of it. Raises `ConfigError`."""
    try:
        with atomic_writer(path) as file:
            file.write(text.encode())
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror}") from None
