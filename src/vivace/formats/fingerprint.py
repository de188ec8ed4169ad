"""Which checkpoint something was made for."""

from __future__ import annotations

import hashlib
from pathlib import Path

from vivace.formats.checkpoint import Checkpoint

_BYTES_OF_EACH = 1 << 12
_BYTES_OF_AN_END = 1 << 16
_MODEL_FILES = ("*.safetensors", "*.index.json", "config.json", "quant*config.json")


def checkpoint_fingerprint(checkpoint: Checkpoint) -> str:
    """SHA-256 over every weight's name, encoding, shape and first 4 KiB.

    That tells models, fine-tunes and encodings apart without reading gigabytes; it is no checksum of the file.
    """
    digest = hashlib.sha256()
    for name in sorted(checkpoint.names()):
        tensor = checkpoint.tensor(name)
        digest.update(f"{name}|{tensor.encoding}|{tensor.shape}|".encode())
        digest.update(tensor.data.reshape(-1)[:_BYTES_OF_EACH].tobytes())
    return digest.hexdigest()


def files_fingerprint(path: Path) -> str:
    """SHA-256 over where a model's files are, their sizes, times of change, and first and last 64 KiB.

    `path` is a file or a directory, of which weights, indexes and configurations count. It takes a millisecond, and
    differs when a file was written, replaced or moved. Raises OSError if a file cannot be read.
    """
    digest = hashlib.sha256()
    for file in _model_files(path):
        status = file.stat()
        digest.update(f"{file.resolve()}|{status.st_size}|{status.st_mtime_ns}|".encode(errors="surrogateescape"))
        with file.open("rb") as opened:
            digest.update(opened.read(_BYTES_OF_AN_END))
            opened.seek(max(0, status.st_size - _BYTES_OF_AN_END))
            digest.update(opened.read(_BYTES_OF_AN_END))
    return digest.hexdigest()


def weight_file_bytes(path: Path) -> int:
    """Of a model's weight files together."""
    return sum(file.stat().st_size for file in _model_files(path) if file.suffix != ".json")


def _model_files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    found = {file for pattern in _MODEL_FILES for file in path.glob(pattern)}
    return sorted(file for file in found if file.is_file())  # no pipes, which block, and no links to nowhere
