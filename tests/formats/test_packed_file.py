"""Files of packed matrices: what was written comes back, and nothing else does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from vivace.core.errors import ModelFileError
from vivace.formats import packed_file
from vivace.formats.packed_file import ALIGNMENT, PackedFile, PackedMatrix, write_packed_file

KEY = "k" * 64


def matrices(seed: int, sizes: list[int]) -> list[PackedMatrix]:
    random = np.random.default_rng(seed)
    return [
        PackedMatrix(f"layers.{i}.ü", "q4_0", 16, 32, 2**64 - 1 - i, random.integers(0, 256, size, np.uint8))
        for i, size in enumerate(sizes)
    ]


@pytest.mark.parametrize("chunk", [1 << 12, 10_000, 16 << 20])
def test_what_was_written_comes_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    monkeypatch.setattr(packed_file, "CHUNK_BYTES", chunk)
    written = matrices(1, [1, 4096, 4097, 70_000, 12_288])
    path = tmp_path / "weights.packed"
    write_packed_file(path, KEY, written)
    content = path.read_bytes()
    with PackedFile.open(path, KEY) as file:
        assert list(file.entries) == [one.name for one in written]
        for one in written:
            entry = file.entries[one.name]
            assert (entry.layout, entry.rows, entry.columns, entry.checksum) == ("q4_0", 16, 32, one.checksum)
            assert entry.offset % ALIGNMENT == 0
            assert content[entry.offset : entry.offset + entry.num_bytes] == one.data.tobytes()
    assert [entry.name for entry in tmp_path.iterdir()] == ["weights.packed"]


def test_another_key_is_refused(tmp_path: Path) -> None:
    write_packed_file(tmp_path / "a", KEY, matrices(2, [100]))
    with pytest.raises(ModelFileError, match="something else"):
        PackedFile.open(tmp_path / "a", "x" * 64)


def test_every_truncation_is_found(tmp_path: Path) -> None:
    path = tmp_path / "a"
    write_packed_file(path, KEY, matrices(3, [5000, 3000]))
    content = path.read_bytes()
    for length in (0, 1, 7, 47, 48, 100, 1000, ALIGNMENT, len(content) - 1):
        path.write_bytes(content[:length])
        with pytest.raises(ModelFileError):
            PackedFile.open(path, KEY)


def test_every_flipped_bit_of_the_manifest_is_found(tmp_path: Path) -> None:
    path = tmp_path / "a"
    write_packed_file(path, KEY, matrices(4, [64]))
    content = path.read_bytes()
    manifest_end = 48 + int.from_bytes(content[8:16], "little")
    for position in range(manifest_end):
        broken = bytearray(content)
        broken[position] ^= 1 << position % 8
        path.write_bytes(broken)
        with pytest.raises(ModelFileError):
            PackedFile.open(path, KEY)


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a"
    write_packed_file(path, KEY, matrices(5, [64]))
    before = path.read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(packed_file._Chunks, "flush", full)
    with pytest.raises(OSError, match="No space"):
        write_packed_file(path, KEY, matrices(6, [64]))
    assert path.read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 1
