"""The folder of packed weights stays within its bound and clean."""

from __future__ import annotations

import os
import shutil
import time
from collections import namedtuple
from pathlib import Path

import pytest

from vivace.formats import packed_directory
from vivace.formats.packed_directory import STALE_S, make_room, mark_used, packed_path

Usage = namedtuple("Usage", "total used free")


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder on a disk that holds 1,000 bytes, free but for the folder's own."""
    path = tmp_path / "cache" / "packed"

    def usage(where: Path) -> Usage:
        used = sum(file.stat().st_size for file in Path(where).iterdir())
        return Usage(1000, used, 1000 - used)

    monkeypatch.setattr(shutil, "disk_usage", usage)
    return path


def put(directory: Path, key: str, num_bytes: int, age_s: float) -> Path:
    path = packed_path(directory, key)
    path.write_bytes(bytes(num_bytes))
    os.utime(path, (time.time() - age_s,) * 2)
    return path


def test_the_least_recently_used_go_first(directory: Path) -> None:
    make_room(directory, 500)
    oldest, older, newest = (put(directory, key, 200, age) for key, age in (("a", 300), ("b", 200), ("c", 100)))
    mark_used(oldest)
    make_room(directory, 100)
    assert (oldest.exists(), older.exists(), newest.exists()) == (True, False, True)
    make_room(directory, 500)
    assert not list(directory.iterdir())


def test_what_can_never_fit_drops_nothing(directory: Path) -> None:
    make_room(directory, 1)
    kept = put(directory, "a", 200, 0)
    with pytest.raises(OSError, match="half of what is free"):
        make_room(directory, 501)
    assert kept.exists()


def test_only_dead_temporary_files_are_swept(directory: Path) -> None:
    make_room(directory, 1)
    dead, alive, other = (directory / name for name in (".a.packed.0.tmp", ".b.packed.1.tmp", "notes.txt"))
    for path, age in ((dead, STALE_S + 60), (alive, 1), (other, STALE_S + 60)):
        path.write_bytes(b"x")
        os.utime(path, (time.time() - age,) * 2)
    make_room(directory, 1)
    assert sorted(directory.iterdir()) == [alive, other]


def test_a_folder_that_cannot_be_made_is_an_error_of_the_system(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OSError, match=r"file"):
        packed_directory.make_room(tmp_path / "file" / "packed", 1)
