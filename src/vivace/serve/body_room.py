"""A bound on the bodies of all requests together, while they are read and parsed."""

from __future__ import annotations

from vivace.core.errors import OverloadedError

MAX_BODIES_BYTES = 128 * 1024 * 1024  # 4,096 connections could bring 16 GiB at once


class BodyRoom:
    """Memory for bodies that are being read or parsed, of all connections together."""

    def __init__(self, max_bytes: int = MAX_BODIES_BYTES) -> None:
        self._max_bytes = max_bytes
        self.num_bytes = 0

    def reader(self) -> BodyReader:
        return BodyReader(self)

    def is_full(self) -> bool:
        return self.num_bytes > self._max_bytes


class BodyReader:
    """One body's share of the room, as a context manager: leaving gives it back."""

    def __init__(self, room: BodyRoom) -> None:
        self._room = room
        self._num_bytes = 0

    def __enter__(self) -> BodyReader:
        return self

    def __exit__(self, *_: object) -> None:
        self._room.num_bytes -= self._num_bytes

    def take(self, num_bytes: int) -> None:
        """Raises `OverloadedError` where all bodies together become too much."""
        self._num_bytes += num_bytes
        self._room.num_bytes += num_bytes
        if self._room.is_full():
            raise OverloadedError("too many bytes are being read from other requests", retry_after_s=1.0)
