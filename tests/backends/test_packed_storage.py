"""Packed matrices as bytes: the checksum against NumPy, reading back on every layout, damage found, copies apart."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from vivace.backends.cpu import packed_storage
from vivace.backends.cpu.backend import LAYOUTS, CpuBackend
from vivace.backends.cpu.packed_storage import CpuPackedReader, CpuPackedStorage, huge_share
from vivace.formats.packed_file import PackedEntry
from vivace.formats.tensor import StoredTensor
from vivace.models.dummy import DummyTensors
from vivace.ops.program import Weight

MULTIPLIER = 0x9E3779B97F4A7C15
MASK = 2**64 - 1
PIECE = 2 << 20


@pytest.fixture(scope="module")
def backend() -> CpuBackend:
    return CpuBackend(2)


@pytest.fixture
def storage(backend: CpuBackend) -> CpuPackedStorage:
    return backend.packed_storage


def splitmix(count: int) -> list[int]:
    words, state = [], 0
    for _ in range(count):
        state = (state + MULTIPLIER) & MASK
        z = ((state ^ state >> 30) * 0xBF58476D1CE4E5B9) & MASK
        z = ((z ^ z >> 27) * 0x94D049BB133111EB) & MASK
        words.append(z ^ z >> 31)
    return words


SECRET = splitmix(24)


def scrambled(lanes: list[int]) -> list[int]:
    return [(lane ^ lane >> 47 ^ key) * 0x9E3779B1 & MASK for lane, key in zip(lanes, SECRET[16:], strict=True)]


def piece_sum(piece: NDArray[np.uint8]) -> int:
    lanes = [0] * 8
    for index, words in enumerate(np.pad(piece, (0, -piece.size % 64)).view("<u8").reshape(-1, 8).tolist()):
        for lane in range(8):
            keyed = words[lane] ^ SECRET[index % 16 + lane]
            lanes[lane] = (lanes[lane] + (keyed & 0xFFFFFFFF) * (keyed >> 32) + words[lane ^ 1]) & MASK
        if index % 16 == 15:
            lanes = scrambled(lanes)
    value = 0
    for lane in scrambled(lanes):
        value = (value * MULTIPLIER + lane) & MASK
    return value


def defined_checksum(data: NDArray[np.uint8]) -> int:
    """The checksum as its definition reads, piece by piece."""
    total = data.size
    for start in range(0, data.size, PIECE):
        total = (total * MULTIPLIER + piece_sum(data[start : start + PIECE])) & MASK
    return total


@pytest.mark.parametrize("size", [1, 63, 64, 65, 1000, 300_000, PIECE, PIECE + 1])
def test_checksum_is_its_definition(storage: CpuPackedStorage, size: int) -> None:
    data = np.random.default_rng(size).integers(0, 256, size, np.uint8)
    assert storage.checksum(data) == defined_checksum(data)


def test_a_checksum_tells_flips_swaps_and_lengths(storage: CpuPackedStorage) -> None:
    random = np.random.default_rng(7)
    data = random.integers(0, 256, 5000, np.uint8)
    variants = [data, data[:-1].copy(), np.append(data, np.uint8(0))]
    for bit in range(0, 40_000, 11):
        flipped = data.copy()
        flipped[bit // 8] ^= 1 << bit % 8
        variants.append(flipped)
    for first in range(7, 40_000, 1024):  # the same bit of two words of one lane
        flipped = data.copy()
        flipped[[first // 8, (first + 2048) // 8 % 5000]] ^= 128
        variants.append(flipped)
    for stripe in range(0, 4000, 64):
        swapped = data.copy()
        swapped[stripe : stripe + 128] = np.roll(data[stripe : stripe + 128], 64)
        variants.append(swapped)
    assert len({one.tobytes() for one in variants}) == len(variants)
    assert len({storage.checksum(one) for one in variants}) == len(variants)


def packed(backend: CpuBackend, layout: str, shape: tuple[int, int] = (50, 512)) -> Weight:
    return backend.pack("w", DummyTensors(layout, 5).matrix("w", shape))


def product(backend: CpuBackend, weight: Weight) -> NDArray[np.float32]:
    x = np.random.default_rng(1).standard_normal((3, weight.shape[1]), np.float32)
    out = np.zeros((3, weight.shape[0]), np.float32)
    backend.device.linear(weight.data, x, out)
    return out


def reader_of(storage: CpuPackedStorage, path: Path) -> CpuPackedReader:
    with path.open("rb") as file:
        reader = storage.reader(file.fileno())
    assert reader is not None
    return reader


@pytest.fixture(params=[0.0, 2.0], ids=["mapped", "copied"])
def either_way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Forces one of the two ways of reading."""
    monkeypatch.setattr(packed_storage, "MIN_HUGE_SHARE", request.param)


@pytest.mark.usefixtures("either_way")
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_matrix_comes_back_to_the_bit(
    tmp_path: Path, backend: CpuBackend, storage: CpuPackedStorage, layout: str
) -> None:
    weight = packed(backend, layout)
    data = storage.data(weight)
    assert data.size == weight.num_bytes
    path = tmp_path / "file"
    path.write_bytes(bytes(4096) + data.tobytes() + b"more")
    with path.open("rb") as file:
        reader = storage.reader(file.fileno())
    os.unlink(path)  # neither the name nor the caller's descriptor is needed any more
    assert reader is not None
    read = reader.matrix(PackedEntry("again", layout, 50, 512, 4096, data.size, storage.checksum(data)))
    assert read is not None
    assert (read.name, read.shape, read.layout, read.num_bytes) == ("again", (50, 512), layout, weight.num_bytes)
    del reader
    np.testing.assert_array_equal(product(backend, read), product(backend, weight))


@pytest.mark.usefixtures("either_way")
def test_damage_is_found(tmp_path: Path, backend: CpuBackend, storage: CpuPackedStorage) -> None:
    weight = packed(backend, "q4_0", (2048, 2048))
    data = storage.data(weight)
    size = data.size
    entry = PackedEntry("w", "q4_0", 2048, 2048, 0, size, storage.checksum(data))
    path = tmp_path / "file"
    for position in (0, 1_234_567, PIECE, size - 1):
        flipped = bytearray(data.tobytes())
        flipped[position] ^= 16
        path.write_bytes(flipped)
        assert reader_of(storage, path).matrix(entry) is None
    path.write_bytes(data.tobytes())
    reader = reader_of(storage, path)
    assert reader.matrix(entry) is not None
    wrong = {
        "checksum": entry.checksum ^ 1,
        "offset": 64,  # ends behind the file
        "layout": "unheard_of",
        "rows": 2**40,
    }
    for field, value in wrong.items():
        assert reader.matrix(replace(entry, **{field: value})) is None, field
    for offset in (1, 2**62, -64):
        assert reader.matrix(replace(entry, offset=offset)) is None


@pytest.mark.usefixtures("either_way")
def test_an_order_of_inputs_comes_back_and_its_damage_is_found(
    tmp_path: Path, backend: CpuBackend, storage: CpuPackedStorage
) -> None:
    order = np.random.default_rng(3).permutation(512).astype(np.int32)
    stored = DummyTensors("int4_g32", 5).matrix("w", (48, 512))
    weight = backend.pack("w", StoredTensor("w", "int4_g32", (48, 512), stored.data, order))
    data, kept = storage.data(weight), storage.order(weight)
    assert kept is not None
    np.testing.assert_array_equal(kept, order)
    assert storage.order(packed(backend, "q4_0")) is None
    path = tmp_path / "file"
    path.write_bytes(data.tobytes().ljust(1 << 16, b"\0") + kept.tobytes())
    entry = PackedEntry("w", "int4_g32", 48, 512, 0, data.size, storage.checksum(data))
    of_order = PackedEntry("w#order", "order", 1, 512, 1 << 16, 2048, storage.checksum(kept.view(np.uint8)))
    read = reader_of(storage, path).matrix(entry, of_order)
    assert read is not None
    np.testing.assert_array_equal(product(backend, read), product(backend, weight))
    np.testing.assert_array_equal(product(backend, storage.copy("copy", weight)), product(backend, weight))
    plain = reader_of(storage, path).matrix(entry)
    assert plain is not None
    assert (product(backend, plain) != product(backend, weight)).any()
    for damage in ({"checksum": 1}, {"offset": 1 << 17}, {"num_bytes": 1024}, {"num_bytes": 3}, {"offset": 0}):
        assert reader_of(storage, path).matrix(entry, replace(of_order, **damage)) is None, damage


def test_an_empty_file_has_no_reader(tmp_path: Path, storage: CpuPackedStorage) -> None:
    (tmp_path / "empty").write_bytes(b"")
    with (tmp_path / "empty").open("rb") as file:
        assert storage.reader(file.fileno()) is None


def test_a_copy_has_memory_of_its_own(backend: CpuBackend, storage: CpuPackedStorage) -> None:
    weight = packed(backend, "q8_0")
    copy = storage.copy("copy", weight)
    first, second = storage.data(weight), storage.data(copy)
    np.testing.assert_array_equal(first, second)
    assert not np.shares_memory(first, second)
    assert not second.flags.writeable


def test_huge_share_reads_what_the_kernel_writes(tmp_path: Path) -> None:
    smaps = tmp_path / "smaps"
    smaps.write_text(
        "7f0000000000-7f0000200000 r--p 00000000 fe:00 11 /a\nFilePmdMapped:      9999 kB\n"
        "7f0000400000-7f0010000000 r--p 00000000 fe:00 12 /b\nRss: 5 kB\nFilePmdMapped:      8192 kB\n"
    )
    assert huge_share(0x7F0000400000, 8, smaps) == 0.5
    assert huge_share(0x7F0000600000, 8, smaps) == 0.0
    assert huge_share(0x7F0000400000, 8, tmp_path / "none") == 0.0
