"""Text files: written whole or not at all, and what cannot be read is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from vivace.core.errors import ConfigError
from vivace.formats.text_file import read_text, write_text


def test_files_are_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "vivace.toml"
    write_text(path, "one")
    write_text(path, "two 日本\r\n")
    assert path.read_bytes() == "two 日本\r\n".encode()
    assert read_text(path) == "two 日本\r\n"
    assert [one.name for one in tmp_path.iterdir()] == ["vivace.toml"]
    with pytest.raises(ConfigError, match=r"cannot write .*No such file"):
        write_text(tmp_path / "absent" / "vivace.toml", "three")


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "bytes").write_bytes(b"ab\xff")
    for name, message in (
        ("nowhere", "No such file"),
        (".", "Is a directory"),
        ("bytes", r"not UTF-8 text \(byte 2\)"),
    ):
        with pytest.raises(ConfigError, match=message):
            read_text(tmp_path / name)
