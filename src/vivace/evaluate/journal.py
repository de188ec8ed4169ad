"""What a long evaluation has finished, on disk, so that one that was cut off goes on instead of starting over.

A file of lines, JSON behind a checksum: the first says what is measured, each other one holds a finished part. A last
line that was cut off is dropped. Lines are written as they come and are not synced: after a power cut a few parts are
measured again.
"""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from vivace.core.errors import ConfigError

Record = dict[str, Any]


class Journal:
    """Finished parts by their name. `identity` is what they depend on: a journal of anything else is refused."""

    def __init__(self, path: Path | None, identity: Record) -> None:
        """Raises `ConfigError` where the file cannot be used."""
        self._records: dict[str, Record] = {}
        self._file: BinaryIO | None = None
        self._path = path
        if path is None:
            return
        try:
            self._open(path, json.loads(json.dumps(identity)))
        except OSError as error:
            raise ConfigError(f"cannot write {path}: {error.strerror}") from None

    @staticmethod
    def nowhere() -> Journal:
        """Keeps nothing."""
        return Journal(None, {})

    @property
    def num_finished(self) -> int:
        return len(self._records)

    def get(self, key: str) -> Record | None:
        return self._records.get(key)

    def put(self, key: str, record: Record) -> None:
        if self._file is not None:
            self._records[key] = record
            self._file.write(_line({"key": key, **record}))
            self._file.flush()

    def finish(self) -> None:
        """Everything is measured and written elsewhere: the file goes."""
        self.close()
        if self._path is not None:
            self._path.unlink(missing_ok=True)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _open(self, path: Path, identity: Record) -> None:
        self._file = path.open("a+b")
        self._file.seek(0)
        content = self._file.read()
        whole = content[: content.rfind(b"\n") + 1]
        lines = [_record(path, number, line) for number, line in enumerate(whole.splitlines(), start=1)]
        if lines and lines[0] != identity:
            self.close()
            raise ConfigError(f"{path} is the journal of another evaluation: remove it, or name another --output")
        self._records = {str(line.pop("key", "")): line for line in lines[1:]}
        self._file.truncate(len(whole))
        if not lines:
            self._file.write(_line(identity))
            self._file.flush()


def _line(record: Record) -> bytes:
    """JSON behind its CRC-32."""
    content = json.dumps(record, separators=(",", ":")).encode()
    return b"%08x " % zlib.crc32(content) + content + b"\n"


def _record(path: Path, number: int, line: bytes) -> Record:
    check, _, content = line.partition(b" ")
    if check != b"%08x" % zlib.crc32(content):
        raise ConfigError(f"{path}, line {number}: damaged, or no journal of vivace evaluate; name another --output")
    record: Record = json.loads(content)
    return record
