"""What takes the place of `torch.cuda`: streams, events, memory and graphs of a `Machine`."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import torch
from pretended.machine import Clock, FaultError, Machine, Stream
from pretended.recording import Pool, Recording, Replay

LAUNCH_S = 1e-5  # of the device's clock
NAME = "Pretended GPU"


def stand_ins(machine: Machine) -> dict[str, Any]:
    """By their names in `torch.cuda`."""

    def index_of(device: Any = None) -> int:
        if isinstance(device, int):
            return device
        index = None if device is None else torch.device(device).index
        return machine.current_device if index is None else index

    def current(device: Any = None) -> Any:
        return of_stream(machine.stream_of(index_of(device)))

    faces: weakref.WeakValueDictionary[int, Any] = weakref.WeakValueDictionary()

    def of_stream(stream: Stream) -> Any:
        face = faces.get(stream.number)
        if face is None:
            face = faces[stream.number] = StreamFace(machine, stream)
        return face

    def memory_of(device: Any) -> Any:
        return machine.memory[index_of(device)]

    def mem_get_info(device: Any = None) -> tuple[int, int]:
        if machine.recording is not None:
            raise RuntimeError("the free memory was asked for while a stream is capturing")
        return machine.total_bytes - memory_of(device).reserved, machine.total_bytes

    def empty_cache() -> None:
        if machine.recording is not None:
            raise RuntimeError("memory was given back while a stream is capturing")
        for memory in machine.memory:
            memory.reserved = memory.allocated

    def reset_peak(device: Any = None) -> None:
        memory_of(device).peak = memory_of(device).allocated

    @contextmanager
    def as_current(device: Any) -> Iterator[None]:
        before, machine.current_device = machine.current_device, index_of(device)
        yield
        machine.current_device = before

    @contextmanager
    def on_stream(face: Any) -> Iterator[None]:
        stream = face.stream
        before = machine.current[stream.device], machine.current_device
        machine.current[stream.device], machine.current_device = stream, stream.device
        try:
            yield
        finally:
            machine.current[stream.device], machine.current_device = before

    def synchronize(device: Any = None) -> None:
        machine.synchronize("torch.cuda.synchronize", machine.stream_of(index_of(device)))

    properties = SimpleNamespace(
        name=NAME, major=machine.capability[0], minor=machine.capability[1], total_memory=machine.total_bytes,
        multi_processor_count=132, L2_cache_size=50 << 20, shared_memory_per_block_optin=227 << 10,
        warp_size=32, regs_per_multiprocessor=65536,
    )  # fmt: skip
    return {
        "_lazy_init": lambda: None,
        "init": lambda: None,
        "is_initialized": lambda: True,
        "is_available": lambda: True,
        "is_bf16_supported": lambda *_: True,
        "is_current_stream_capturing": lambda: machine.recording is not None,
        "device_count": lambda: machine.num_devices,
        "current_device": lambda: machine.current_device,
        "device": lambda device: Scope(as_current(device)),
        "get_device_name": lambda *_: NAME,
        "get_device_capability": lambda *_: machine.capability,
        "get_device_properties": lambda *_: properties,
        "mem_get_info": mem_get_info,
        "memory_allocated": lambda device=None: memory_of(device).allocated,
        "max_memory_allocated": lambda device=None: memory_of(device).peak,
        "memory_reserved": lambda device=None: memory_of(device).reserved,
        "reset_peak_memory_stats": reset_peak,
        "empty_cache": empty_cache,
        "synchronize": synchronize,
        "current_stream": current,
        "Stream": lambda device=None: of_stream(machine.new_stream(index_of(device))),
        "stream": lambda face: Scope(on_stream(face)),
        "Event": lambda **options: Event(machine, **options),
        "CUDAGraph": lambda: Graph(machine),
        "graph": lambda graph, pool=None: Scope(graph.capturing(pool)),
        "graph_pool_handle": Pool,
        "_sleep": lambda _: machine.launch(machine.stream_of(machine.current_device)),
    }


class Scope:
    """A context that is left as it should be whatever happens inside."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def __enter__(self) -> Any:
        return self._inner.__enter__()

    def __exit__(self, *error: Any) -> Any:
        return self._inner.__exit__(*error)


class StreamFace:
    """`torch.cuda.Stream`."""

    def __init__(self, machine: Machine, stream: Stream) -> None:
        self._machine = machine
        self.stream = stream

    def wait_stream(self, other: StreamFace) -> None:
        self.stream.join(other.stream.seen)

    def wait_event(self, event: Event) -> None:
        self.stream.join(event.clock)

    def synchronize(self) -> None:
        self._machine.synchronize("stream", self.stream)


class Event:
    """`torch.cuda.Event`: of the device of its first recording."""

    def __init__(self, machine: Machine, enable_timing: bool = False, blocking: bool = False) -> None:
        self._machine = machine
        self._is_timed = enable_timing
        self._device: int | None = None
        self.clock: Clock = {}
        self._moment: float | None = None

    def record(self, stream: StreamFace | None = None) -> None:
        machine = self._machine
        own = machine.stream_of(machine.current_device) if stream is None else stream.stream
        if self._device not in (None, own.device):
            raise RuntimeError(f"Event device {self._device} does not match recording stream's device {own.device}.")
        self._device, self.clock = own.device, dict(own.seen)
        self._moment = machine.num_launches * LAUNCH_S

    def wait(self, stream: StreamFace | None = None) -> None:
        machine = self._machine
        (machine.stream_of(machine.current_device) if stream is None else stream.stream).join(self.clock)

    def query(self) -> bool:
        if self._machine.recording is not None:
            raise RuntimeError("an event was asked about while a stream is capturing")
        return all(self._machine.done.get(number, 0) >= count for number, count in self.clock.items())

    def synchronize(self) -> None:
        self._machine.wait("event", self.clock)

    def elapsed_time(self, later: Event) -> float:
        if not (self._is_timed and later._is_timed):
            raise ValueError("Both events must be created with argument 'enable_timing=True'.")
        if self._moment is None or later._moment is None or not later.query():
            raise RuntimeError("Both events must be recorded and completed before calculating elapsed time.")
        return 1e3 * (later._moment - self._moment)


class Graph:
    """`torch.cuda.CUDAGraph`."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._replay: Replay | None = None

    @contextmanager
    def capturing(self, pool: Pool | None) -> Iterator[None]:
        """`torch.cuda.graph`: on a stream of its own, once the device is done."""
        machine, device = self._machine, self._machine.current_device
        machine.synchronize("before a capture", machine.stream_of(device))
        stream = machine.new_stream(device)
        before, machine.current[device] = machine.current[device], stream
        machine.recording = Recording(machine, stream, Pool() if pool is None else pool)
        try:
            yield
            self._replay = machine.recording.finish()
        finally:
            machine.recording, machine.current[device] = None, before

    def replay(self) -> None:
        if self._replay is None:
            raise RuntimeError("Called CUDAGraph::replay without a preceding successful capture.")
        if self._machine.recording is not None:
            raise FaultError("a graph is replayed while a stream is capturing")
        self._replay.run()


