"""GGUF files put together byte by byte, so that each field can lie. Made from the specification alone."""

from __future__ import annotations

from struct import pack

MAGIC = b"GGUF"
UINT8, BOOL, STRING, ARRAY, UINT32, FLOAT32 = 0, 7, 8, 9, 4, 6


def string(text: str | bytes, length: int | None = None) -> bytes:
    raw = text.encode() if isinstance(text, str) else text
    return pack("<Q", len(raw) if length is None else length) + raw


def pair(key: str | bytes, value_type: int, value: bytes) -> bytes:
    return string(key) + pack("<I", value_type) + value


def array(item_type: int, items: list[bytes], count: int | None = None) -> bytes:
    return pack("<IQ", item_type, len(items) if count is None else count) + b"".join(items)


def tensor(
    name: str | bytes, dims: tuple[int, ...], ggml_type: int = 0, offset: int = 0, num_dims: int | None = None
) -> bytes:
    head = string(name) + pack("<I", len(dims) if num_dims is None else num_dims)
    return head + pack(f"<{len(dims)}QIQ", *dims, ggml_type, offset)


def gguf(
    pairs: tuple[bytes, ...] = (),
    tensors: tuple[bytes, ...] = (),
    data: bytes = b"",
    *,
    magic: bytes = MAGIC,
    version: int = 3,
    num_tensors: int | None = None,
    num_pairs: int | None = None,
    alignment: int = 32,
) -> bytes:
    head = magic + pack(
        "<IQQ",
        version,
        len(tensors) if num_tensors is None else num_tensors,
        len(pairs) if num_pairs is None else num_pairs,
    )
    head += b"".join(pairs) + b"".join(tensors)
    return head + bytes(-len(head) % alignment) + data
