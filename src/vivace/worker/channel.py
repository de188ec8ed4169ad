"""Frames between the two processes: a length of four bytes (big endian), then one msgpack message. Never pickle."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Generic, TypeVar

import msgspec

from vivace.core.errors import EngineError, VivaceError

MAX_FRAME_BYTES = 64 * 2**20  # a prompt of a million tokens takes 5 MB
_PREFIX_BYTES = 4
_encoder = msgspec.msgpack.Encoder()

T = TypeVar("T")


def encode_frame(message: msgspec.Struct, limit: int = MAX_FRAME_BYTES) -> bytearray:
    """One message, ready to be sent. Raises `EngineError` where it is longer than the other side accepts."""
    frame = bytearray(_PREFIX_BYTES)
    _encoder.encode_into(message, frame, _PREFIX_BYTES)
    size = len(frame) - _PREFIX_BYTES
    if size > limit:
        raise EngineError(f"a {type(message).__name__} message of {size} bytes exceeds the channel's {limit}")
    frame[:_PREFIX_BYTES] = size.to_bytes(_PREFIX_BYTES, "big")
    return frame


class FrameDecoder(Generic[T]):
    """Cuts a stream of bytes into messages of one type (a union of tagged structs)."""

    def __init__(self, kind: Any, limit: int = MAX_FRAME_BYTES) -> None:
        self._decoder: msgspec.msgpack.Decoder[T] = msgspec.msgpack.Decoder(kind)
        self._limit = limit
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[T]:
        """The messages that `data` completes. Raises `EngineError` for a length over the limit and for a message
        that is no such type; nothing is to be read from the channel after that."""
        buffer = self._buffer
        buffer += data
        start = 0
        try:
            while len(buffer) - start >= _PREFIX_BYTES:
                size = int.from_bytes(buffer[start : start + _PREFIX_BYTES], "big")
                if size > self._limit:
                    raise EngineError(f"the channel announced a message of {size} bytes; the limit is {self._limit}")
                end = start + _PREFIX_BYTES + size
                if len(buffer) < end:
                    break
                message = self._decode(buffer, start + _PREFIX_BYTES, end)
                start = end
                yield message
        finally:
            del buffer[:start]

    @property
    def is_between_frames(self) -> bool:
        """False where the stream, ending now, would end within a message."""
        return not self._buffer

    def _decode(self, buffer: bytearray, start: int, end: int) -> T:
        try:
            return self._decoder.decode(memoryview(buffer)[start:end])
        except (msgspec.MsgspecError, VivaceError, ValueError, RecursionError, MemoryError) as error:
            raise EngineError(f"the channel brought a message that is none of ours: {error}") from error
