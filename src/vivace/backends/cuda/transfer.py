"""What travels between host and device: all integers of a step in one copy from pinned memory, and results back."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

SMALLEST_STAGE = 1 << 14  # integers
STAGED_BYTES = 1 << 24  # of weights in one copy: 1 ms over PCIe 4
MOST_STAGES = 8  # of an upload: passes of a draft are launched one behind the other, and read together
ALIGNED = 4  # integers: arrays begin at 16 bytes, or kernels would be compiled again for each place of one


class Upload:
    """Packs arrays into a pinned buffer and sends it without waiting. A buffer is used again once its copy is over:
    there are two, and more where the device is further behind."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stages = deque([_Stage(device), _Stage(device)])  # the one sent longest ago is the first

    def send(self, arrays: Mapping[str, NDArray[np.int32]], into: Tensor | None = None) -> dict[str, Tensor]:
        """Each array on the device, int32, of its own shape: views of one buffer, `into` where it is given."""
        stage = self._next_stage()
        total = num_integers(arrays)
        host = stage.open(total)
        start = 0
        for array in arrays.values():
            host.numpy()[start : start + array.size] = array.ravel()
            start += _aligned(array.size)
        if into is None:
            into = torch.empty(total, dtype=torch.int32, device=self._device)
        into[:total].copy_(host[:total], non_blocking=True)
        stage.sent()
        return split(into, arrays)

    def _next_stage(self) -> _Stage:
        if len(self._stages) < MOST_STAGES and not self._stages[0].is_free:
            self._stages.append(_Stage(self._device))
        else:
            self._stages.rotate(-1)
        return self._stages[-1]


def num_integers(arrays: Mapping[str, NDArray[np.int32]]) -> int:
    """Of a buffer that takes these arrays."""
    return sum(_aligned(array.size) for array in arrays.values())


def _aligned(size: int) -> int:
    return -(-size // ALIGNED) * ALIGNED


def split(buffer: Tensor, arrays: Mapping[str, NDArray[np.int32]]) -> dict[str, Tensor]:
    """Views of a buffer that holds these arrays one behind the other."""
    views, start = {}, 0
    for name, array in arrays.items():
        views[name] = buffer[start : start + array.size].reshape(array.shape)
        start += _aligned(array.size)
    return views


class _Stage:
    """A pinned buffer, and the moment from which on it may be written again."""

    def __init__(self, device: torch.device) -> None:
        self._is_pinned = device.type == "cuda"
        self._buffer = self._allocate(SMALLEST_STAGE)
        self._copied = torch.cuda.Event() if self._is_pinned else None

    @property
    def is_free(self) -> bool:
        return self._copied is None or self._copied.query()

    def open(self, num_integers: int) -> Tensor:
        if self._copied is not None:
            self._copied.synchronize()
        if len(self._buffer) < num_integers:
            self._buffer = self._allocate(num_integers * 2 if num_integers < STAGED_BYTES // 8 else num_integers)
        return self._buffer

    def sent(self) -> None:
        if self._copied is not None:
            self._copied.record()

    def _allocate(self, num_integers: int) -> Tensor:
        return torch.empty(num_integers, dtype=torch.int32, pin_memory=self._is_pinned)


class StagedCopy:
    """Weights on their way to the device: the next part is read from its file's pages while the last one travels. Of
    pageable memory the driver would make a copy of its own, and wait for it."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stages = [_Stage(device), _Stage(device)]

    def send(self, data: NDArray[np.uint8]) -> Tensor:
        """The same bytes on the device, in the array's shape. The array is not referenced afterwards."""
        result = torch.empty(data.shape, dtype=torch.uint8, device=self._device)
        rows = max(1, STAGED_BYTES // max(1, data[:1].nbytes))
        for start in range(0, len(data), rows):
            part = data[start : start + rows]
            stage = self._stages[0]
            self._stages.reverse()
            host = stage.open(-(-part.size // 4)).view(torch.uint8)[: part.size].reshape(part.shape)
            np.copyto(host.numpy(), part)
            result[start : start + len(part)].copy_(host, non_blocking=True)
            stage.sent()
        return result


@cache
def weights_to(device: torch.device) -> StagedCopy:
    """One for all matrices: its pinned memory is small, and slow to come by."""
    return StagedCopy(device)


class Arrival:
    """A tensor on its way to the host: the copy was launched, `read` waits for it. On the device the tensor may be
    written again at once, for what is launched later runs later."""

    def __init__(self, values: Tensor) -> None:
        is_pinned = values.device.type == "cuda"
        self._host = torch.empty(values.shape, dtype=values.dtype, pin_memory=is_pinned)
        self._host.copy_(values, non_blocking=True)
        self._copied = torch.cuda.Event() if is_pinned else None
        if self._copied is not None:
            self._copied.record()

    def read(self) -> NDArray[Any]:
        if self._copied is not None:
            self._copied.synchronize()
        array: NDArray[Any] = self._host.numpy()
        return array
