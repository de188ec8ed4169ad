"""Memory as a device has it: addresses, and what may not be done with them.

Global memory is one arena of the tensors that a launch was given, with gaps between them; the bytes that a tensor's
shape and strides name may be accessed, no others. Shared memory knows of every byte whether it was written and, of
every word of four, which warp wrote and read it since the program's last barrier, whether a fence has shown it to
Hopper's products, and whether one of these still reads it.
"""

from __future__ import annotations

import numpy as np
import torch

from ptx.source import RAW, Instruction
from ptx.traffic import Traffic

GLOBAL_BASE = 0x7F0000000000
SHARED_BASE = 1024  # no address of data is 0, and swizzles repeat every 1024 bytes
GAP = 4096
LINE_BYTES = 128  # of the second-level cache
NEVER, WRITTEN, IN_FLIGHT = 0, 1, 2
MANY = 63  # in the place of a warp: several


class GlobalMemory:
    """Addresses keep what they are modulo 64: kernels are compiled for the alignment of the real ones."""

    def __init__(self, tensors: list[torch.Tensor]) -> None:
        self._places: dict[int, tuple[int, torch.Tensor]] = {}
        size = GAP
        for tensor in tensors:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in self._places:
                start = size + (storage.data_ptr() - size) % 64
                of_bytes = torch.empty(0, dtype=torch.uint8).set_(storage)  # type: ignore[call-overload]
                self._places[storage.data_ptr()] = start, of_bytes
                size = start + storage.nbytes() + GAP
        size += -size % 64
        self.bytes = np.zeros(size, np.uint8)
        allowed = torch.zeros(size, dtype=torch.bool)
        for start, of_bytes in self._places.values():
            self.bytes[start : start + len(of_bytes)] = of_bytes.numpy()
        for tensor in tensors:
            start, _ = self._places[tensor.untyped_storage().data_ptr()]
            width = tensor.element_size()
            strides = (*(stride * width for stride in tensor.stride()), 1)
            first = start + tensor.storage_offset() * width
            allowed.as_strided((*tensor.shape, width), strides, first).fill_(True)
        self._allowed = {1: allowed.numpy()}
        self._is_written = False
        self._traffic = Traffic(size)

    def address(self, tensor: torch.Tensor) -> int:
        start, _ = self._places[tensor.untyped_storage().data_ptr()]
        return GLOBAL_BASE + start + tensor.storage_offset() * tensor.element_size()

    def copy_back(self) -> None:
        if self._is_written:
            for start, of_bytes in self._places.values():
                of_bytes.copy_(torch.from_numpy(self.bytes[start : start + len(of_bytes)]))

    def load(
        self, instruction: Instruction, addresses: np.ndarray, width: int, count: int, programs: np.ndarray
    ) -> np.ndarray:
        """[k, count] of `width` bytes from k addresses, read by these programs."""
        size = width * count
        units = self._units(instruction, addresses, size)
        self._traffic.note_load(instruction, units * size, programs)
        loaded: np.ndarray = self.bytes.view(RAW[8 * width]).reshape(-1, count)[units]
        return loaded

    def store(
        self, instruction: Instruction, addresses: np.ndarray, values: np.ndarray, programs: np.ndarray
    ) -> None:
        """`values` [k, count]."""
        size = values.itemsize * values.shape[1]
        units = self._units(instruction, addresses, size)
        pieces = self.bytes.view(values.dtype).reshape(-1, values.shape[1])
        is_same = (pieces[units] == values).all(1)
        self._traffic.note_store(instruction, units * size, size, programs, is_same)
        pieces[units] = values
        if (pieces[units] != values).any():
            raise instruction.error("threads write different values to one address")
        self._is_written = True

    def ask_for(self, instruction: Instruction, addresses: np.ndarray) -> None:
        """Of a tensor's storage, or of the line behind it: what lies further off would be read for nothing."""
        offsets = addresses.view(np.int64) - GLOBAL_BASE
        starts, ends = np.array([(start, start + len(one)) for start, one in self._places.values()]).T
        is_near = ((offsets[:, None] >= starts) & (offsets[:, None] < ends + LINE_BYTES)).any(1)
        if not is_near.all():
            raise instruction.error(self._complaint(int(offsets[is_near.argmin()]), int((~is_near).sum())))

    def _units(self, instruction: Instruction, addresses: np.ndarray, size: int) -> np.ndarray:
        """Numbers of the pieces of `size` bytes, all of which are aligned and belong to tensors."""
        offsets = addresses.view(np.int64) - GLOBAL_BASE
        if (offsets % size).any():
            raise instruction.error(
                f"address {int(addresses[(offsets % size).argmax()]):#x} is not aligned to {size}"
            )
        units: np.ndarray = offsets // size
        if size not in self._allowed:
            whole = len(self.bytes) // size * size
            self._allowed[size] = self._allowed[1][:whole].reshape(-1, size).all(1)
        allowed = self._allowed[size]
        is_allowed = (units >= 0) & (units < len(allowed))
        is_allowed &= allowed[np.where(is_allowed, units, 0)]
        if not is_allowed.all():
            raise instruction.error(self._complaint(int(offsets[is_allowed.argmin()]), int((~is_allowed).sum())))
        return units

    def _complaint(self, offset: int, count: int) -> str:
        nearest = min(self._places.values(), key=lambda place: abs(offset - place[0] - len(place[1]) // 2))
        return (
            f"out of bounds in {count} threads, first at byte {offset - nearest[0]} of a storage of "
            f"{len(nearest[1])} bytes"
        )


class SharedMemory:
    """Of several programs, `size` bytes and `groups` times four warps each."""

    def __init__(self, programs: int, size: int, groups: int) -> None:
        self.size = size
        self._pitch = size + -size % 64
        self._data = np.zeros(programs * self._pitch, np.uint8)
        self._state = np.zeros(programs * self._pitch, np.uint8)
        self._writers = np.zeros(programs * self._pitch // 4, np.int32)  # 64 epoch + warp
        self._readers = np.zeros_like(self._writers)
        self._products = np.zeros((groups, len(self._writers)), np.uint8)  # that read a word, of each group
        self._is_unfenced = np.zeros(len(self._writers), np.bool_)
        self._epochs = np.ones(programs, np.int32)

    def pass_barrier(self, programs: np.ndarray) -> None:
        self._epochs[programs] += 1

    def pass_fence(self, programs: np.ndarray) -> None:
        """What was written is there for products of four warps, too."""
        self._is_unfenced.reshape(len(self._epochs), -1)[programs] = False

    def begin_product(
        self, instruction: Instruction, addresses: np.ndarray, groups: np.ndarray, programs: np.ndarray
    ) -> np.ndarray:
        """Words that groups of four warps will read until `end_product`; `addresses` [groups, n] of 16 bytes each."""
        flat = self._flat(instruction, addresses, 16, programs[:, None])
        words = (flat[:, :, None] // 4 + np.arange(4)).reshape(len(flat), -1)
        if self._is_unfenced[words].any():
            raise instruction.error("reads what no fence has shown to products")
        self._products[groups[:, None], words] += 1
        return words

    def end_product(self, words: np.ndarray, groups: np.ndarray, programs: np.ndarray) -> None:
        self._products[groups[:, None], words] -= 1
        self._readers[words] = (64 * self._epochs[programs] + MANY)[:, None]

    def load(
        self, instruction: Instruction, addresses: np.ndarray, width: int, count: int, warps: np.ndarray,
        programs: np.ndarray,
    ) -> np.ndarray:  # fmt: skip
        """[k, count] of `width` bytes from k addresses, read by these warps of these programs."""
        size = width * count
        flat = self._flat(instruction, addresses, size, programs)
        self._check_written(instruction, flat, size)
        epochs = self._epochs[programs][:, None]
        words = flat[:, None] // 4 + np.arange(max(1, size // 4))
        writers = self._writers[words]
        if ((writers >> 6 == epochs) & (writers & 63 != warps[:, None])).any():
            raise instruction.error("reads what another warp wrote since the last barrier")
        if size >= 4:
            readers = self._readers[words]
            is_other = (readers >> 6 == epochs) & (readers & 63 != warps[:, None])
            self._readers[words] = 64 * epochs + np.where(is_other, MANY, warps[:, None])
        loaded: np.ndarray = self._data.view(RAW[8 * width]).reshape(-1, count)[flat // size]
        return loaded

    def store(
        self, instruction: Instruction, addresses: np.ndarray, values: np.ndarray, warps: np.ndarray,
        programs: np.ndarray,
    ) -> None:  # fmt: skip
        """`values` [k, count]."""
        flat = self._flat(instruction, addresses, values.itemsize * values.shape[1], programs)
        self._check_read(instruction, flat, values.nbytes // len(values), warps, programs)
        self.arrive(flat, values, warps, programs)

    def expect(
        self, instruction: Instruction, addresses: np.ndarray, size: int, warps: np.ndarray, programs: np.ndarray
    ) -> np.ndarray:
        """Bytes that an asynchronous copy is on its way to. Returns places for `arrive`."""
        flat = self._flat(instruction, addresses, size, programs)
        self._check_read(instruction, flat, size, warps, programs)
        self._state.reshape(-1, size)[flat // size] = IN_FLIGHT
        return flat

    def arrive(self, flat: np.ndarray, values: np.ndarray, warps: np.ndarray, programs: np.ndarray) -> None:
        size = values.itemsize * values.shape[1]
        self._data.view(values.dtype).reshape(-1, values.shape[1])[flat // size] = values
        self._state.reshape(-1, size)[flat // size] = WRITTEN
        if size >= 4:
            words = flat[:, None] // 4 + np.arange(size // 4)
            self._writers[words] = (64 * self._epochs[programs] + warps)[:, None]
            self._is_unfenced[words] = True

    def _flat(self, instruction: Instruction, addresses: np.ndarray, size: int, programs: np.ndarray) -> np.ndarray:
        offsets = addresses.astype(np.int64) - SHARED_BASE
        if (offsets % size).any():
            raise instruction.error(f"shared address is not aligned to {size}")
        if (offsets < 0).any() or (offsets + size > self.size).any():
            worst = int(offsets.max()) if (offsets >= 0).all() else int(offsets.min())
            raise instruction.error(f"byte {worst} of {self.size} of shared memory")
        flat: np.ndarray = offsets + programs * self._pitch
        return flat

    def _check_written(self, instruction: Instruction, flat: np.ndarray, size: int) -> None:
        width = min(size, 8)
        states = self._state.view(RAW[8 * width]).reshape(-1, size // width)[flat // size]
        if (states != int.from_bytes(bytes([WRITTEN] * width), "little")).any():
            states = self._state.reshape(-1, size)[flat // size]
            reason = "that a copy is on its way to" if (states == IN_FLIGHT).any() else "that was never written"
            raise instruction.error(f"reads shared memory {reason}")

    def _check_read(
        self, instruction: Instruction, flat: np.ndarray, size: int, warps: np.ndarray, programs: np.ndarray
    ) -> None:
        words = flat[:, None] // 4 + np.arange(max(1, size // 4))
        if self._products[:, words].any():
            raise instruction.error("writes over what a product is about to read")
        readers = self._readers[words]
        if ((readers >> 6 == self._epochs[programs][:, None]) & (readers & 63 != warps[:, None])).any():
            raise instruction.error("writes over what another warp read since the last barrier")
