"""A run on disk, `OUT.partial`: killed at any moment it goes on from the last whole layer, to the same bytes.

    run.json         what was asked, of which model, on which data
    manifest.json    the layers that are done: their shard, the hidden states behind them, and the SHA-256 of both
    bits.json        mixed precision's plan
    output/          the shards, and at the end the files beside them; renamed to OUT when all is there
A layer counts once the manifest names it; the manifest is replaced whole.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import msgspec

from vivace.core.errors import ConfigError
from vivace.formats.atomic_file import atomic_writer

RUN_NAME, MANIFEST_NAME = "run.json", "manifest.json"
PARTIAL_SUFFIX = ".partial"
HASH_BYTES = 1 << 18


@dataclass(frozen=True, slots=True)
class LayerRecord:
    """A finished layer. `hidden` is the file of hidden states behind it, empty for methods that need none."""

    shard: str
    shard_sha256: str
    hidden: str
    hidden_sha256: str
    tensor_names: list[str]
    bits_of_module: dict[str, int | None]


class RunDirectory:
    """The folder of one run towards `output`."""

    def __init__(self, output: Path, asked: dict[str, Any]) -> None:
        """Makes the folder, or finds an unfinished run of the very same request in it.

        Raises ConfigError where `output` exists, or the unfinished run was asked for something else.
        """
        self.output = output
        self.path = output.with_name(output.name + PARTIAL_SUFFIX)
        if output.exists():
            raise ConfigError(f"{output} exists already: name a new place")
        text = json.dumps(asked, sort_keys=True, indent=1) + "\n"
        run = self.path / RUN_NAME
        if run.exists() and run.read_text(encoding="utf-8") != text:
            raise ConfigError(
                f"{self.path} holds an unfinished run of another request (see {run}): repeat that one to finish it, "
                "delete it, or name another place"
            )
        if not run.exists() and self.path.exists() and any(self.path.iterdir()):
            raise ConfigError(f"{self.path} is in the way and holds no unfinished run: move it or name another place")
        try:
            self.shards.mkdir(parents=True, exist_ok=True)
            self.write_json(RUN_NAME, asked)
        except OSError as error:
            raise ConfigError(f"cannot write {self.path}: {error.strerror}") from None
        self.layers = self._finished_layers()
        self._clear_shards()

    @property
    def shards(self) -> Path:
        return self.path / "output"

    def write_json(self, name: str, value: object) -> None:
        with atomic_writer(self.path / name) as file:
            file.write((json.dumps(value, sort_keys=True, indent=1) + "\n").encode())

    def read_json(self, name: str) -> Any:
        """None where the file is not there yet, or is no JSON."""
        try:
            return json.loads((self.path / name).read_bytes())
        except (OSError, ValueError):
            return None

    def damaged(self, name: str, reason: str) -> ConfigError:
        """For a file of the run that is whole JSON, and not what a run writes."""
        return ConfigError(f"{self.path / name} is damaged ({reason:.200}): delete {self.path} to begin anew")

    def commit(self, record: LayerRecord) -> None:
        """Adds a layer whose files are written; then the hidden states before it can go."""
        self.layers.append(record)
        self.write_json(MANIFEST_NAME, [asdict(layer) for layer in self.layers])
        for before in self.layers[:-1]:
            if before.hidden:
                (self.path / before.hidden).unlink(missing_ok=True)

    def finish(self) -> None:
        """Renames the shards' folder to the output, and drops the rest."""
        self.shards.rename(self.output)
        self.drop()

    def drop(self) -> None:
        shutil.rmtree(self.path)

    def _clear_shards(self) -> None:
        """Removes what a killed run left half written, or wrote and did not commit."""
        kept = {layer.shard for layer in self.layers}
        for path in self.shards.iterdir():
            if path.name not in kept:
                path.unlink()

    def _finished_layers(self) -> list[LayerRecord]:
        """Those whose files are as the manifest says; nothing is believed behind a broken one."""
        entries = self.read_json(MANIFEST_NAME)
        if entries is None:
            return []
        try:
            layers = msgspec.convert(entries, list[LayerRecord])
        except msgspec.ValidationError as error:
            raise self.damaged(MANIFEST_NAME, str(error)) from None
        intact = [checksum(self.shards / layer.shard) == layer.shard_sha256 for layer in layers]
        if layers and layers[-1].hidden:
            intact.append(checksum(self.path / layers[-1].hidden) == layers[-1].hidden_sha256)
        return layers if all(intact) else []


def checksum(path: Path) -> str:
    """SHA-256; empty where there is no such file."""
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while data := file.read(HASH_BYTES):
                digest.update(data)
    except (FileNotFoundError, IsADirectoryError):
        return ""
    return digest.hexdigest()
