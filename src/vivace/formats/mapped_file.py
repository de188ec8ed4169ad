"""Model files are mapped read-only, never read whole: opening a 10 GB file costs a page table, not 10 GB."""

from __future__ import annotations

import mmap
import stat
from os import PathLike
from pathlib import Path

from vivace.core.errors import ModelFileError

_PICKLE_SUFFIXES = frozenset({".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle"})
# A zip archive (torch.save since 1.6) or a bare pickle of protocol 2 to 5.
_PICKLE_STARTS = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
_LFS_START = b"version https://git-lfs"

PICKLE_REFUSAL = (
    "pickle checkpoints run code when read, so they are never unpickled; convert the model to safetensors"
)


def is_pickle_name(name: str) -> bool:
    return Path(name).suffix.lower() in _PICKLE_SUFFIXES


def map_file(path: str | PathLike[str]) -> memoryview:
    """The file's bytes as a read-only view of a private mapping, which lives as long as any view of it.

    Raises ModelFileError if the path is missing, not a regular file, empty, a pickle or a git-lfs pointer.
    """
    if is_pickle_name(str(path)):
        raise ModelFileError(path, PICKLE_REFUSAL)
    try:
        status = Path(path).stat()
        if not stat.S_ISREG(status.st_mode):  # a FIFO would block the open, a device never end
            raise ModelFileError(path, "not a regular file")
        if status.st_size == 0:
            raise ModelFileError(path, "the file is empty")
        with Path(path).open("rb") as file:
            view = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    except (OSError, ValueError) as error:
        raise ModelFileError(path, f"cannot be opened: {error}") from error
    _refuse_other_kinds(bytes(view[: len(_LFS_START)]), path)
    return view


def _refuse_other_kinds(start: bytes, path: str | PathLike[str]) -> None:
    # A safetensors file may begin with these pickle bytes too (its header length), but then has "{" at byte 8.
    if start.startswith(_PICKLE_STARTS) and start[8:9] != b"{":
        raise ModelFileError(path, PICKLE_REFUSAL, offset=0)
    if start.startswith(_LFS_START):
        raise ModelFileError(path, "a git-lfs pointer, not the file itself; run `git lfs pull`", offset=0)
