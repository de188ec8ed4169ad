"""The engine's end of the channel: never blocks while there is work, whatever the front does."""

from __future__ import annotations

import select
import socket
from collections import deque
from contextlib import suppress

from vivace.core.errors import EngineError
from vivace.worker.channel import FrameDecoder, encode_frame
from vivace.worker.messages import Command, Report

_RECEIVE_BYTES = 256 * 1024
_MAX_BYTES_A_CALL = 4 * _RECEIVE_BYTES  # a flood of prompts is read over many steps, not before the next one


class SocketChannel:
    """Commands in, reports out. What the socket does not take at once is kept and sent later.

    The kept reports are bounded by the tokens that the front has asked for.
    """

    def __init__(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        self.is_closed = False  # the front is gone: nothing more can be said
        self._socket = connection
        self._decoder: FrameDecoder[Command] = FrameDecoder(Command)
        self._unsent: deque[memoryview] = deque()
        self._poll = select.poll()
        self._poll.register(connection, select.POLLIN)

    def send(self, report: Report) -> None:
        """Never blocks and never fails for a front that is gone: `is_closed` says so."""
        self._unsent.append(memoryview(encode_frame(report)))
        self._flush()

    def receive(self) -> list[Command]:
        """The commands that are there. Raises `EngineError` for what is none."""
        commands: list[Command] = []
        num_bytes = 0
        while num_bytes < _MAX_BYTES_A_CALL and not self.is_closed:
            try:
                data = self._socket.recv(_RECEIVE_BYTES)
            except BlockingIOError:
                break
            except ConnectionError:
                data = b""
            if not data:
                self.is_closed = True
                if not self._decoder.is_between_frames:
                    raise EngineError("the channel ended within a message")
            num_bytes += len(data)
            commands += self._decoder.feed(data)
        if self._unsent:
            self._flush()
        return commands

    def wait(self, timeout_s: float | None) -> None:
        """Sleep until there is something to receive or the rest of a report can be sent."""
        if self._unsent:
            self._poll.modify(self._socket, select.POLLIN | select.POLLOUT)
        self._poll.poll(None if timeout_s is None else timeout_s * 1e3)
        if self._unsent:
            self._poll.modify(self._socket, select.POLLIN)

    def finish(self, timeout_s: float) -> None:
        """Send what is left, waiting at most so long, and close."""
        self._socket.settimeout(timeout_s)
        with suppress(OSError):
            self._socket.sendall(b"".join(self._unsent))
        self._unsent.clear()
        self._socket.close()
        self.is_closed = True

    def _flush(self) -> None:
        unsent = self._unsent
        try:
            while unsent:
                num_sent = self._socket.send(unsent[0])
                if num_sent == len(unsent[0]):
                    unsent.popleft()
                else:
                    unsent[0] = unsent[0][num_sent:]
        except BlockingIOError:
            pass
        except ConnectionError:
            unsent.clear()
            self.is_closed = True
