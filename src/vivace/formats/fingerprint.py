"""Which checkpoint something was made for."""

from __future__ import annotations

import hashlib

from vivace.formats.checkpoint import Checkpoint

_BYTES_OF_EACH = 1 << 12


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
