"""What the devices have done, as far as the host can know: clocks of streams, waits, memory, copies on their way.

The device is as slow as a device may be: nothing that was launched is done before the host has waited for it. A copy
into pinned memory brings its bytes when somebody waits for it, and garbage lies there until then. Pinned memory that a
copy to the device reads must still hold the same bytes when the copy is known to be over.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from pretended.recording import Recording

GARBAGE = 0xAB  # in every byte that nobody has written: NaN or large numbers in most types
CAPTURING = "CUDA error: operation not permitted when stream is capturing (cudaErrorStreamCaptureUnsupported)"

Clock = dict[int, int]  # of each stream, by its number: how many launches


class FaultError(AssertionError):
    """What a real device would answer with wrong numbers, now and then."""


@dataclass(frozen=True, slots=True)
class Wait:
    """The host waited for the device. `places`: of the package's code, the innermost first."""

    kind: str
    places: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.kind} at {' < '.join(self.places[:4])}"


@dataclass(eq=False, slots=True)
class Stream:
    """`seen`: what is over before its next launch begins."""

    number: int
    device: int
    seen: Clock = field(default_factory=dict)

    def join(self, other: Clock) -> None:
        for number, count in other.items():
            self.seen[number] = max(count, self.seen.get(number, 0))


@dataclass(eq=False)
class Allocation:
    """Memory of a device, which tensors over it share. `device` None: of the host, pinned."""

    device: int
    num_bytes: int
    written: tuple[int, int] | None = None  # stream and count
    read: Clock = field(default_factory=dict)


@dataclass(slots=True)
class _Copy:
    """On its way. `bytes`: what it brings, or what its source held."""

    at: tuple[int, int]
    host: Tensor
    values: Tensor
    is_arrival: bool
    places: tuple[str, ...]


@dataclass(slots=True)
class _Memory:
    allocated: int = 0
    peak: int = 0
    reserved: int = 0


class Machine:
    """Of `num_devices` equal ones."""

    def __init__(self, num_devices: int, capability: tuple[int, int], total_bytes: int) -> None:
        self.num_devices = num_devices
        self.capability = capability
        self.total_bytes = total_bytes
        self.current_device = 0
        self.num_streams = 0
        self.defaults = [self.new_stream(device) for device in range(num_devices)]
        self.current = list(self.defaults)  # of each device
        self.done: Clock = {}  # what the host knows to be over
        self.waits: list[Wait] = []
        self.recording: Recording | None = None
        self.memory = [_Memory() for _ in range(num_devices)]
        self.pinned: dict[int, Tensor] = {}  # by address: kept, so that no address comes again
        self.num_launches = 0
        self.num_replays = 0
        self.transfers: Counter[str] = Counter()
        self._copies: list[_Copy] = []

    def new_stream(self, device: int) -> Stream:
        self.num_streams += 1
        return Stream(self.num_streams, device)

    def stream_of(self, device: int) -> Stream:
        return self.current[device]

    def wait(self, kind: str, clock: Clock) -> None:
        """Until everything in `clock` is over. Nothing to wait for where the host knows that it is."""
        if self.recording is not None:
            raise RuntimeError(f"{CAPTURING}: {kind}")
        if all(self.done.get(number, 0) >= count for number, count in clock.items()):
            return
        self.check_copies()
        self.waits.append(Wait(kind, places()))
        for number, count in clock.items():
            self.done[number] = max(count, self.done.get(number, 0))
        self._finish_copies()

    def synchronize(self, kind: str, stream: Stream) -> None:
        """A wait that costs a round trip, whether there is something to do or not."""
        self.launch(stream)
        self.wait(kind, dict(stream.seen))

    def launch(self, stream: Stream) -> tuple[int, int]:
        count = stream.seen.get(stream.number, 0) + 1
        stream.seen[stream.number] = count
        self.num_launches += 1
        return stream.number, count

    def access(self, stream: Stream, reads: list[Allocation], writes: list[Allocation]) -> tuple[int, int] | None:
        """Of one launch, which it is. Raises `FaultError` where another stream may still be at its memory. None while
        one captures."""
        if self.recording is not None:
            return None
        at = self.launch(stream)
        for one in reads:
            self._require(stream, one.written, "reads what another stream may not have written yet")
            one.read[at[0]] = at[1]
        for one in writes:
            self._require(stream, one.written, "writes what another stream may write later")
            for other in one.read.items():
                self._require(stream, other, "writes what another stream may still read")
            one.written = at
        return at

    def _require(self, stream: Stream, before: tuple[int, int] | None, complaint: str) -> None:
        if before is None or before[0] == stream.number:
            return
        number, count = before
        if max(stream.seen.get(number, 0), self.done.get(number, 0)) < count:
            raise FaultError(f"a launch on stream {stream.number} {complaint} ({number})")

    def send(self, stream: Stream, host: Tensor) -> None:
        """A copy of pinned memory to the device, launched: its source must not change before it is over."""
        self.transfers["pinned to device"] += 1
        self._copies.append(_Copy(self.launch(stream), host, host.clone(), False, places()))

    def bring(self, stream: Stream, host: Tensor, values: Tensor) -> None:
        """A copy from the device to pinned memory, launched."""
        self.transfers["device to pinned"] += 1
        spoil(host)
        self._copies.append(_Copy(self.launch(stream), host, values.clone(), True, places()))

    def check_copies(self) -> None:
        """That no pinned memory was written while a copy to the device may still read it."""
        for copy in self._copies:
            if not copy.is_arrival and not same_bytes(copy.host, copy.values):
                raise FaultError(f"pinned memory was written before its copy was over: {' < '.join(copy.places)}")

    def _finish_copies(self) -> None:
        left = []
        for copy in self._copies:
            if self.done.get(copy.at[0], 0) < copy.at[1]:
                left.append(copy)
            elif copy.is_arrival:
                copy.host.copy_(copy.values)
        self._copies = left

    def allocate(self, device: int, num_bytes: int) -> Allocation:
        memory = self.memory[device]
        if memory.allocated + num_bytes > self.total_bytes:
            raise torch.cuda.OutOfMemoryError(f"CUDA out of memory. Tried to allocate {num_bytes} bytes.")
        memory.allocated += num_bytes
        memory.peak = max(memory.peak, memory.allocated)
        memory.reserved = max(memory.reserved, memory.allocated)
        return Allocation(device, num_bytes)

    def release(self, device: int, num_bytes: int) -> None:
        self.memory[device].allocated -= num_bytes

    @contextmanager
    def counted(self) -> Iterator[list[Wait]]:
        """The waits of a block, in a list that is complete behind it."""
        before = len(self.waits)
        found: list[Wait] = []
        yield found
        found.extend(self.waits[before:])


def places() -> tuple[str, ...]:
    """The frames of the package's code, the innermost first."""
    found = []
    frame = sys._getframe(1)
    while frame is not None and len(found) < 8:
        _, is_inside, path = frame.f_code.co_filename.rpartition("/vivace/")
        if is_inside:
            found.append(f"{path}:{frame.f_lineno}")
        frame = frame.f_back  # type: ignore[assignment]
    return tuple(found)


def spoil(tensor: Tensor) -> None:
    """Fill it with what nobody has written."""
    if not tensor.numel():
        return
    if tensor.dtype == torch.bool:
        tensor.fill_(True)
    elif tensor.is_contiguous():
        tensor.view(-1).view(torch.uint8).fill_(GARBAGE)


def same_bytes(left: Tensor, right: Tensor) -> bool:
    left, right = (one.contiguous().view(-1).view(torch.uint8) for one in (left, right))
    return torch.equal(left, right)
