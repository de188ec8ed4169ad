"""Prompts from the user's files."""

from __future__ import annotations

from pathlib import Path

import pytest

from vivace.bench.speculation_prompts import Prompts, read_prompts
from vivace.core.errors import ConfigError


def test_json_lines_and_paragraphs(tmp_path: Path) -> None:
    lines = tmp_path / "some.jsonl"
    lines.write_text(
        '{"prompt": "a"}\n{"turns": ["b", "c"]}\n\n{"question": "d"}\n'
        '{"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "e"}]}\n'
    )
    assert read_prompts(lines) == ["a", "b", "d", "e"]
    text = tmp_path / "some.txt"
    text.write_text("One\nparagraph.\n\n\nAnother.\n")
    assert read_prompts(text) == ["One\nparagraph.", "Another."]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b'{"prompt": "a"}\n{"prompt"\n', "line 2 is not JSON"),
        (b'{"prompt": 3}\n', "line 1 has no prompt"),
        (b'{"turns": 3}\n', "line 1 has no prompt"),
        (b'{"messages": [3, {"role": "user"}]}\n', "line 1 has no prompt"),
        (b"\xff\xfe", "is not UTF-8 text"),
    ],
)
def test_wrong_files(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "wrong"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        read_prompts(path)
    with pytest.raises(ConfigError, match=r"cannot read .*absent"):
        read_prompts(tmp_path / "absent")


def test_lengths() -> None:
    own = Prompts(lambda text: list(text.encode()), 256, 0, ["abcdef", "xy"])
    assert own.take(3, 4) == [list(b"cdef"), list(b"xy"), list(b"cdef")]
    built_in = Prompts(lambda text: list(text.encode()), 256, 0, None).take(4, 100)
    assert [len(one) for one in built_in] == [100] * 4
    assert len({tuple(one) for one in built_in}) == 4
    random = Prompts(None, 32, 0, None).take(2, 50)
    assert all(0 <= token < 32 for one in random for token in one)
    with pytest.raises(ConfigError, match="no tokenizer"):
        Prompts(None, 32, 0, ["text"])
