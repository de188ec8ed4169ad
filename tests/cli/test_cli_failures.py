"""How commands end: errors on one line, interrupts, readers that leave."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from command_run import Vivace

from vivace.cli.failures import one_line


def test_control_characters_cannot_leave_their_line() -> None:
    assert one_line("a\nb\r\n c\x1b[31m\x00") == "a b c\\x1b[31m\\x00"


def test_an_interrupt_is_code_130(vivace: Vivace, stories: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(_config: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("vivace.cli.generate.open_llm", interrupted)
    done = vivace("generate", stories, "--prompt", "x")
    assert (done.code, done.stdout, done.stderr) == (130, "", "vivace: interrupted\n")


def test_an_interrupt_says_where_the_same_command_goes_on(
    vivace: Vivace, stories: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def interrupted(_config: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("vivace.cli.evaluate.open_llm", interrupted)
    done = vivace("evaluate", stories, "-o", str(tmp_path / "quality.json"))
    assert done.code == 130
    assert "the same command goes on" in done.stderr


def test_a_reader_that_left_is_no_error_message(stories: str) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "vivace", "generate", stories, "--prompt", "Once", "--temperature", "0"]
    done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True, timeout=120)
    os.close(writing)
    assert (done.returncode, done.stderr) == (141, "")


def test_version(vivace: Vivace) -> None:
    assert vivace("--version").stdout == "0.1.0\n"
