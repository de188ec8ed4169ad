"""Metadata and names without a file."""

from __future__ import annotations

from pathlib import Path


class FakeCheckpoint:
    """What `spec_from_gguf` reads, but for tensors."""

    path = Path("fake.gguf")

    def __init__(self, metadata: dict, names: list[str]) -> None:
        self.metadata = metadata
        self._names = names

    def names(self) -> list[str]:
        return self._names

    def tensor(self, name: str) -> object:
        raise AssertionError(f"{name} was read")


METADATA = {
    "general.architecture": "llama",
    "llama.block_count": 2,
    "llama.context_length": 64,
    "llama.embedding_length": 32,
    "llama.feed_forward_length": 64,
    "llama.attention.head_count": 4,
    "llama.attention.head_count_kv": 2,
    "llama.attention.layer_norm_rms_epsilon": 1e-5,
}
