"""Lines of a text file, plain or gzip, with what can be wrong about them said in one line."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import Any

from vivace.core.errors import ConfigError

Bytes = BufferedReader | gzip.GzipFile
GZIP_MAGIC = b"\x1f\x8b"
MAX_LINE_BYTES = 64 << 20  # of a row with a million token ids; longer ones are no trace


def numbered_lines(path: str | Path) -> Iterator[tuple[int, str]]:
    """Lines with their number from 1, without their ends; empty ones are left out. One line is in memory at a time.

    Raises `ConfigError` naming the file, and the line where there is one.
    """
    path = Path(path).expanduser()
    number = 0
    with reading(path, lambda: f"line {number}") as file:
        while raw := file.readline(MAX_LINE_BYTES + 1):
            number += 1
            if len(raw) > MAX_LINE_BYTES:
                raise ConfigError(f"{path}, line {number} is longer than {MAX_LINE_BYTES >> 20} MiB")
            line = raw.decode("utf-8-sig" if number == 1 else "utf-8").strip()
            if line:
                yield number, line


@contextmanager
def reading(path: Path, place: Callable[[], str]) -> Iterator[Bytes]:
    """The file's bytes, unpacked where they are gzip. What goes wrong inside is a `ConfigError` with `place()`."""
    try:
        with _opened(path) as file:
            yield file
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}, {place()} is no UTF-8 text (byte {error.start} of it)") from None
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ConfigError(f"{path}: the gzip data break behind {place()} ({error}); fetch it again") from None
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror or error}") from None


def numbered_records(path: str | Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Objects of a JSONL file with where they stand ("FILE, line N"). Raises `ConfigError`."""
    for number, line in numbered_lines(path):
        where = f"{path}, line {number}"
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ConfigError(f"{where} is no JSON object: {error!s:.100}") from None
        if not isinstance(value, dict):
            raise ConfigError(f"{where} is no JSON object but {type(value).__name__}: write one object a line")
        yield where, value


def _opened(path: Path) -> Bytes:
    file = path.open("rb")
    if file.peek(2)[:2] != GZIP_MAGIC:
        return file
    file.close()
    return gzip.open(path, "rb")
