"""Where models come from."""

from __future__ import annotations

from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub.errors import LocalEntryNotFoundError

from vivace.core.errors import ConfigError
from vivace.engine.source import ModelSource, locate


def test_nothing_is_the_embedded_model() -> None:
    source = locate(None)
    assert source.kind == "directory"
    assert (source.path / "model.safetensors").is_file()


def test_directories_and_gguf_files_are_themselves(tmp_path: Path) -> None:
    file = tmp_path / "model.GGUF"
    file.write_bytes(b"")
    assert locate(str(tmp_path)) == ModelSource("directory", tmp_path)
    assert locate(str(file)) == ModelSource("gguf", file)


def test_other_files_and_nonsense_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "weights.bin"
    file.write_bytes(b"")
    with pytest.raises(ConfigError, match=r"no \.gguf"):
        locate(str(file))
    with pytest.raises(ConfigError, match="neither a directory"):
        locate("no such model")


def test_hub_names_are_downloaded_without_pickles(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[tuple[str, list[str]]] = []

    def download(name: str, *, allow_patterns: list[str]) -> str:
        asked.append((name, allow_patterns))
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert locate("owner/some-model.v1") == ModelSource("directory", tmp_path)
    assert asked[0][0] == "owner/some-model.v1"
    assert not any(pattern.endswith((".bin", ".pt", ".py")) for pattern in asked[0][1])


def test_a_hub_that_does_not_answer_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def download(name: str, **_: object) -> str:
        raise LocalEntryNotFoundError(f"cannot reach the hub for {name}")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    with pytest.raises(ConfigError, match="cannot reach the hub"):
        locate("owner/model")
