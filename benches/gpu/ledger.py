"""A section's results in one JSON file, written whole after each item: a run that was cut off goes on from there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from vivace.formats.atomic_file import atomic_writer

Record = dict[str, Any]


class Ledger:
    """`records` by key, in the order in which they were measured."""

    def __init__(self, path: Path) -> None:
        self._path = path
        held = json.loads(path.read_text()) if path.exists() else {}
        self.about: Record = held.get("about", {})
        self.records: dict[str, Record] = held.get("records", {})
        self.started: str | None = held.get("started")

    def describe(self, about: Record) -> None:
        """The run that adds records from now on."""
        self.about = about
        self._write()

    def start(self, key: str) -> None:
        """From now on until `keep` a death of the process is this item's."""
        self.started = key
        self._write()

    def keep(self, key: str, record: Record) -> None:
        self.records[key] = record
        self.started = None
        self._write()

    def bury(self, reason: str) -> str | None:
        """Give the item that was under way the error `reason`; its key, or None where none was."""
        key = self.started
        if key is not None:
            self.keep(key, {"error": reason})
        return key

    def forget_failures(self) -> None:
        """What failed or was wrong is measured again."""
        self.records = {key: record for key, record in self.records.items() if not has_failed(record)}
        self._write()

    def _write(self) -> None:
        held = {"about": self.about, "started": self.started, "records": self.records}
        with atomic_writer(self._path) as file:
            file.write(json.dumps(held, indent=1).encode())


def has_failed(record: Record) -> bool:
    """It ended with an error, or its numbers are not right."""
    return bool(record.get("error")) or record.get("is_right") is False


def ledger_path(out: Path, section: str) -> Path:
    return out / f"{section}.json"
