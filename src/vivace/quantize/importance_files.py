"""The importance files of one export: one that is read in place of calibration, or one that gets what that found."""

from __future__ import annotations

from pathlib import Path

from vivace.core.errors import ConfigError
from vivace.quantize.gguf_imatrix import ImportanceMatrix, read_imatrix, write_imatrix


class ImportanceFiles:
    """`given` is None where there is no file to read."""

    def __init__(self, source: Path | None = None, target: Path | None = None) -> None:
        """Reads `source`. Raises ConfigError for a target in no folder, and what `read_imatrix` raises."""
        self.source, self.target = source, target
        if target is not None and (target.is_dir() or not target.absolute().parent.is_dir()):
            raise ConfigError(f"cannot write {target}: name a file in a folder that is there")
        self.given = None if source is None else read_imatrix(source)

    @property
    def checksum(self) -> str | None:
        return None if self.given is None else self.given.checksum

    @property
    def summary(self) -> str:
        """What the file that was read says of its data."""
        if self.given is None:
            return ""
        chunks = f"{self.given.num_chunks} chunks of " if self.given.num_chunks else ""
        return f"{chunks}{', '.join(self.given.datasets) or 'unnamed data'}, as {self.source} has it"

    def save(self, found: ImportanceMatrix) -> None:
        """Raises ConfigError where that cannot be."""
        if self.target is None:
            return
        try:
            write_imatrix(self.target, found)
        except OSError as error:
            raise ConfigError(f"cannot write {self.target}: {error.strerror}") from None
