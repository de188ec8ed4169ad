"""Tensors that say they are on a CUDA device, and what every operation of torch on them does there."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any, NoReturn

import torch
from pretended.machine import Allocation, Machine, Stream, spoil
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten

# What gives the host a number, or a shape that only the device knows.
WAITING = {
    "aten::_local_scalar_dense", "aten::nonzero", "aten::masked_select", "aten::equal", "aten::is_nonzero",
    "aten::unique_consecutive", "aten::_unique2", "aten::unique_dim", "aten::bincount", "aten::_assert_async",
}  # fmt: skip
INDEXED = ("aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_", "aten::_unsafe_index")
TRANSFERS = ("aten::_to_copy", "aten::copy_")
MIXED = "Expected all tensors to be on the same device, but found at least two devices"


class DeviceTensor(Tensor):
    """`inner`: the numbers, on the CPU; `allocation`: whose memory it is."""

    inner: Tensor
    allocation: Allocation
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, inner: Tensor, allocation: Allocation) -> DeviceTensor:
        tensor: DeviceTensor = torch.Tensor._make_wrapper_subclass(
            cls, inner.shape, strides=inner.stride(), storage_offset=inner.storage_offset(),
            dtype=inner.dtype, device=torch.device("cuda", allocation.device),
        )  # fmt: skip
        tensor.inner = inner
        tensor.allocation = allocation
        return tensor

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return Dispatcher.latest.run(func, args, kwargs or {})

    def data_ptr(self) -> int:
        return self.inner.data_ptr()

    def untyped_storage(self) -> Any:
        return self.inner.untyped_storage()

    def numpy(self, *_: Any, **__: Any) -> NoReturn:
        raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() first.")

    __array__ = numpy

    def tolist(self) -> Any:
        return self.cpu().tolist()

    def __repr__(self, **_: Any) -> str:
        return f"DeviceTensor({tuple(self.shape)}, {self.dtype}, {self.device})"


@cache
def effects(func: Any) -> tuple[frozenset[str], bool]:
    """The arguments that it writes, and whether it only looks at memory in another way."""
    schema = func._schema
    written = frozenset(one.name for one in schema.arguments if one.alias_info is not None and one.alias_info.is_write)
    returned = [one.alias_info for one in schema.returns]
    is_view = bool(returned) and not written and all(one is not None for one in returned)
    return written, is_view


def tensors_in(values: Any) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from tensors_in(value)


def mapped(value: Any, change: Callable[[Tensor], Any]) -> Any:
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, list | tuple):
        return type(value)(mapped(one, change) for one in value)
    return value


def inner_of(tensor: Tensor) -> Tensor:
    return tensor.inner if isinstance(tensor, DeviceTensor) else tensor


class Dispatcher(TorchDispatchMode):
    """Every operation of torch while a device is pretended."""

    latest: Dispatcher

    def __init__(self, machine: Machine) -> None:
        super().__init__()
        self.machine = machine
        Dispatcher.latest = self

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return self.run(func, args, kwargs or {})

    def run(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        given = [*tensors_in(args), *tensors_in(kwargs.values())]
        mine = [one for one in given if isinstance(one, DeviceTensor)]
        target = self._target(kwargs)
        if not mine and target is None:
            return self._on_host(func, args, kwargs)
        name = func._schema.name
        if name in TRANSFERS:
            copied = self._transferred(name, args, kwargs, target)
            if copied is not None:
                return copied
        elif name == "aten::_fused_sdp_choice":
            return 0  # torch's own definition: no kernel of CUDA is here
        device = mine[0].allocation.device if mine else target
        assert device is not None
        self._check_devices(func, name, args, given, device)
        return self._launched(func, args, kwargs, mine, device)

    def _target(self, kwargs: dict[str, Any]) -> int | None:
        """Which CUDA device was asked for."""
        device = kwargs.get("device")
        if device is None or torch.device(device).type != "cuda":
            return None
        index = torch.device(device).index
        index = self.machine.current_device if index is None else index
        if not 0 <= index < self.machine.num_devices:
            raise RuntimeError("CUDA error: invalid device ordinal")
        return index

    def _on_host(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        if not kwargs.get("pin_memory"):
            return func(*args, **kwargs)
        if self.machine.recording is not None:
            raise RuntimeError("CUDA error: pinned memory was allocated while a stream is capturing")
        made = func(*args, **kwargs | {"pin_memory": False})
        if made.numel():
            self.machine.pinned[made.untyped_storage().data_ptr()] = made
            spoil(made)
        return made

    def _check_devices(self, func: Any, name: str, args: Any, given: list[Tensor], device: int) -> None:
        """What torch refuses, and what it does with a wait."""
        machine, stream = self.machine, self.machine.stream_of(device)
        if name in INDEXED:
            for index in args[1]:
                if index is None:
                    continue
                if index.dtype in (torch.bool, torch.uint8):
                    machine.synchronize("index by a mask", stream)
                elif not isinstance(index, DeviceTensor):
                    machine.synchronize("index from the host", stream)
            given = [args[0], *args[2:3]]
        for one in given:
            if isinstance(one, DeviceTensor):
                if one.allocation.device != device:
                    raise RuntimeError(f"{MIXED}, cuda:{device} and {one.device}! ({func})")
            elif isinstance(one, Tensor) and one.dim():
                raise RuntimeError(f"{MIXED}, cuda:{device} and cpu! ({func})")
        if name in WAITING or (name == "aten::repeat_interleave" and func is not aten.repeat_interleave.self_int):
            machine.synchronize(name.removeprefix("aten::"), stream)

    def _launched(self, func: Any, args: Any, kwargs: dict[str, Any], mine: list[DeviceTensor], device: int) -> Any:
        machine, stream = self.machine, self.machine.stream_of(device)
        if machine.recording is not None:
            machine.recording.check(stream)
        written, is_view = effects(func)
        inner_args, inner_kwargs = self._inner(args, kwargs)
        names = [one.name for one in func._schema.arguments]
        given = dict(zip(names, args, strict=False)) | kwargs
        changed = [one for one in tensors_in(given[name] for name in written if name in given)]
        if machine.recording is not None and changed:
            machine.recording.keep(changed)
        at = None
        if not is_view:
            writes = [one.allocation for one in changed if isinstance(one, DeviceTensor)]
            at = machine.access(stream, [one.allocation for one in mine], writes)
        result = func(*inner_args, **inner_kwargs)
        if func in (aten.empty.memory_format, aten.empty_strided.default, aten.new_empty.default,
                    aten.empty_like.default, aten.new_empty_strided.default):  # fmt: skip
            spoil(result)
        wrapped = self._wrapped(result, mine, device)
        if not is_view:
            for one in tensors_in([wrapped]):
                if isinstance(one, DeviceTensor) and at is not None:
                    one.allocation.written = at
            if machine.recording is not None:
                machine.recording.add(func, inner_args, inner_kwargs, result, mine, not written)
        elif machine.recording is not None:
            machine.recording.look(mine)
        return wrapped

    def _inner(self, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """On the CPU; numbers of the host as they are now."""
        is_recorded = self.machine.recording is not None

        def change(one: Tensor) -> Tensor:
            if isinstance(one, DeviceTensor):
                return one.inner
            return one.clone() if is_recorded else one

        inner_kwargs = {name: mapped(value, change) for name, value in kwargs.items()}
        if kwargs.get("device") is not None:
            inner_kwargs["device"] = torch.device("cpu")
        if kwargs.get("pin_memory"):
            raise RuntimeError("Only dense CPU tensors can be pinned")
        return mapped(args, change), inner_kwargs

    def _wrapped(self, result: Any, mine: list[DeviceTensor], device: int) -> Any:
        known = {id(one.inner): one for one in mine}
        places = {one.inner.untyped_storage().data_ptr(): one.allocation for one in mine if one.numel()}

        def change(inner: Tensor) -> Tensor:
            if id(inner) in known:
                return known[id(inner)]
            allocation = places.get(inner.untyped_storage().data_ptr()) if inner.numel() else None
            return DeviceTensor(inner, self.new(device, inner) if allocation is None else allocation)

        return mapped(result, change)

    def new(self, device: int, inner: Tensor) -> Allocation:
        """For memory that is new."""
        num_bytes = inner.untyped_storage().nbytes()
        allocation = self.machine.allocate(device, num_bytes)
        weakref.finalize(allocation, self.machine.release, device, num_bytes).atexit = False
        if self.machine.recording is not None:
            self.machine.recording.own(allocation)
        return allocation

    def _transferred(self, name: str, args: Any, kwargs: dict[str, Any], target: int | None) -> Tensor | None:
        """A copy between devices; None for one within a device."""
        if name == "aten::copy_":
            return self._copied(*args, *kwargs.values())
        source = args[0]
        if target is None and not (kwargs.get("device") is not None and isinstance(source, DeviceTensor)):
            return None
        if isinstance(source, DeviceTensor) and source.allocation.device == target:
            return None
        options = {one: kwargs[one] for one in ("dtype", "memory_format") if kwargs.get(one) is not None}
        inner = aten._to_copy.default(inner_of(source), **options)
        if target is None:
            if kwargs.get("pin_memory"):
                raise AssertionError("a copy to pinned memory is made by Tensor.copy_")
            self.machine.transfers["device to pageable"] += 1
            self._access(source, [source.allocation], [])
            self.machine.synchronize("copy to the host", self.machine.stream_of(source.allocation.device))
            return inner
        result = DeviceTensor(inner, self.new(target, inner))
        self._from_host(source, result, bool(kwargs.get("non_blocking")))
        return result

    def _copied(self, into: Tensor, source: Tensor, non_blocking: bool = False) -> Tensor | None:
        if isinstance(into, DeviceTensor) and isinstance(source, DeviceTensor):
            if into.allocation.device == source.allocation.device:
                return None
            raise AssertionError("nothing is copied between devices")
        if isinstance(into, DeviceTensor):
            if self.machine.recording is not None and source.dim():
                raise RuntimeError("CUDA error: a copy from the host while a stream is capturing")
            if not source.dim():
                return None  # a kernel's argument
            into.inner.copy_(source)
            self._from_host(source, into, non_blocking)
            return into
        assert isinstance(source, DeviceTensor)
        stream = self.machine.stream_of(source.allocation.device)
        self._access(source, [source.allocation], [])
        if non_blocking and self._is_pinned(into):
            self.machine.bring(stream, into, source.inner.to(into.dtype))
            return into
        into.copy_(source.inner)
        self.machine.transfers["device to pageable"] += 1
        self.machine.synchronize("copy to the host", stream)
        return into

    def _from_host(self, source: Tensor, into: DeviceTensor, non_blocking: bool) -> None:
        machine, stream = self.machine, self.machine.stream_of(into.allocation.device)
        if machine.recording is not None:
            raise RuntimeError("CUDA error: a copy from the host while a stream is capturing")
        self._access(into, [], [into.allocation])
        if non_blocking and self._is_pinned(source):
            if source.dtype != into.dtype:
                raise AssertionError("torch converts on the device, by way of memory of its own: convert before")
            machine.send(stream, source)
        else:
            machine.transfers["pageable to device"] += 1
            machine.synchronize("copy from the host", stream)

    def _access(self, tensor: DeviceTensor, reads: list[Allocation], writes: list[Allocation]) -> None:
        stream: Stream = self.machine.stream_of(tensor.allocation.device)
        if self.machine.recording is not None:
            self.machine.recording.check(stream)
        self.machine.access(stream, reads, writes)

    def _is_pinned(self, tensor: Tensor) -> bool:
        return not tensor.numel() or tensor.untyped_storage().data_ptr() in self.machine.pinned
