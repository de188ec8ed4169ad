"""`vivace chat`, with a person at a pipe."""

from __future__ import annotations

import contextlib
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
from command_run import Vivace

from vivace.cli.chat import Conversation
from vivace.core.errors import ContextLengthError
from vivace.core.sampling import SamplingParams
from vivace.engine.output import TextDelta


class ScriptedModel:
    """Answers "one two three", records what it was asked, and can be interrupted after a word."""

    def __init__(self, *, interrupt_after: str = "", limit: int = 100) -> None:
        self.tokenizer = SimpleNamespace(chat_template="present")
        self.asked: list[list[dict[str, str]]] = []
        self.closed = False
        self._interrupt_after = interrupt_after
        self._limit = limit

    def chat_prompt(self, messages: list[dict[str, str]]) -> list[int]:
        self.asked.append([dict(message) for message in messages])
        return list(range(len(messages)))

    def stream(self, prompt: list[int], _params: SamplingParams) -> Iterator[TextDelta]:
        if len(prompt) > self._limit:
            raise ContextLengthError("too long", param="prompt")
        try:
            for word in ("one", " two", " three"):
                if word == self._interrupt_after:
                    signal.raise_signal(signal.SIGINT)
                yield TextDelta("0", 0, word, (1,), word == " three")
        finally:
            self.closed = True


def _conversation(model: ScriptedModel, system: str | None = None) -> Conversation:
    return Conversation(model, SamplingParams(), system)  # type: ignore[arg-type]


def test_history_grows_and_reset_forgets(capsys: pytest.CaptureFixture[str]) -> None:
    model = ScriptedModel()
    talk = _conversation(model, system="Be brief")
    assert all(talk.take(line) for line in ("hello", "  ", "again", "/reset", "fresh", "/system Be rude", "so?"))
    assert not talk.take("/quit")
    system, answer = {"role": "system", "content": "Be brief"}, {"role": "assistant", "content": "one two three"}
    assert model.asked[1] == [
        system,
        {"role": "user", "content": "hello"},
        answer,
        {"role": "user", "content": "again"},
    ]
    assert model.asked[2] == [system, {"role": "user", "content": "fresh"}]
    assert model.asked[3] == [{"role": "system", "content": "Be rude"}, {"role": "user", "content": "so?"}]
    assert capsys.readouterr().out == "one two three\n" * 4


def test_ctrl_c_stops_the_answer_and_keeps_what_was_said(capsys: pytest.CaptureFixture[str]) -> None:
    before = signal.getsignal(signal.SIGINT)
    model = ScriptedModel(interrupt_after=" two")
    talk = _conversation(model)
    assert talk.take("hello")
    assert talk.take("more")
    assert capsys.readouterr().out == "one two\n" * 2
    assert model.asked[1][1] == {"role": "assistant", "content": "one two"}
    assert model.closed
    assert signal.getsignal(signal.SIGINT) is before


def test_a_conversation_too_long_is_told_and_the_question_taken_back(capsys: pytest.CaptureFixture[str]) -> None:
    model = ScriptedModel(limit=1)
    talk = _conversation(model)
    talk.take("first")
    talk.take("second")
    talk.take("third")
    assert [message["content"] for message in model.asked[2]] == ["first", "one two three", "third"]
    assert "/reset" in capsys.readouterr().err


def test_a_pipe_is_answered_line_by_line_until_it_ends(vivace: Vivace, stories: str) -> None:
    lines = "/help\nOnce upon a time\n/nonsense\n"
    done = vivace("chat", stories, "--temperature", "0", "--max-tokens", "20", stdin=lines)
    assert done.code == 0
    assert done.stdout.startswith(", there was a little girl named Lily.")
    assert "no chat template" in done.stderr
    assert "/system TEXT" in done.stderr
    assert "unknown command /nonsense" in done.stderr


def test_a_terminal_shows_the_rate_under_the_answer(stories: str) -> None:
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "vivace", "chat", stories, "--temperature", "0", "--max-tokens", "20"]
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "120"}
    process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment)
    os.close(theirs)
    os.write(ours, b"Once upon a time\n/quit\n")
    shown = b"".join(_until_closed(ours))
    assert process.wait(timeout=60) == 0
    assert b", there was a little girl named Lily." in shown
    assert b"tokens/s" in shown


def _until_closed(terminal: int) -> Iterator[bytes]:
    with contextlib.suppress(OSError), open(terminal, "rb", buffering=0) as stream:
        while piece := stream.read(4096):
            yield piece
