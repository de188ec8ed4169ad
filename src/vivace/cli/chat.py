"""`vivace chat`: a conversation in the terminal, or with whatever feeds stdin."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import typer

from vivace.cli.options import ENGINE, SAMPLING, takes
from vivace.cli.screen import Answer, PlainAnswer, Rate
from vivace.cli.session import open_llm
from vivace.core.config import EngineConfig
from vivace.core.errors import ContextLengthError
from vivace.core.sampling import SamplingParams

if TYPE_CHECKING:
    from vivace.engine.llm import LLM

HELP = """\
/system TEXT  set the system prompt and start over
/reset        forget the conversation
/help         show this
/quit         leave (so does Ctrl-D); Ctrl-C stops an answer"""


TALK = SAMPLING.without("n", "logprobs", "prompt_logprobs").with_defaults(max_tokens=None, temperature=0.7)


@takes(params=TALK, config=ENGINE)
def chat(
    config: EngineConfig,
    params: SamplingParams,
    system: Annotated[str | None, typer.Option(help="The system prompt.")] = None,
) -> None:
    """Talk with a model."""
    conversation = Conversation(open_llm(config), params, system)
    is_terminal = sys.stdin.isatty()
    if is_terminal:
        import readline  # noqa: F401 - gives input() its line editing and history

        print("Say something. /help shows the commands.", file=sys.stderr)
    for line in _lines(is_terminal):
        if not conversation.take(line):
            break


def _lines(is_terminal: bool) -> Iterator[str]:
    """What the user says, line by line. At the prompt Ctrl-C drops the line and Ctrl-D ends the conversation."""
    while True:
        try:
            yield input("> " if is_terminal else "")
        except EOFError:
            return
        except KeyboardInterrupt:
            if not is_terminal:
                raise
            print("\n(Ctrl-D leaves)", file=sys.stderr)


class Conversation:
    """Messages so far and the engine that answers them."""

    def __init__(self, llm: LLM, params: SamplingParams, system: str | None) -> None:
        self._llm = llm
        self._params = params
        self._system = system
        self._has_template = llm.tokenizer.chat_template is not None
        self._messages: list[dict[str, str]] = []
        self._reset()
        if not self._has_template:
            print("(this model has no chat template: it continues the text of the conversation)", file=sys.stderr)

    def take(self, line: str) -> bool:
        """Obey or answer one line. False: the user wants to leave."""
        text = line.strip()
        command, _, argument = text.partition(" ")
        if command in ("/quit", "/exit"):
            return False
        if command == "/help":
            print(HELP, file=sys.stderr)
        elif command == "/reset":
            self._reset()
        elif command == "/system":
            self._system = argument.strip() or None
            self._reset()
        elif command.startswith("/"):
            print(f"unknown command {command}; /help lists them", file=sys.stderr)
        elif text:
            self._answer(text)
        return True

    def _reset(self) -> None:
        self._messages = [] if self._system is None else [{"role": "system", "content": self._system}]

    def _answer(self, text: str) -> None:
        self._messages.append({"role": "user", "content": text})
        try:
            with _answer_on_screen() as answer, _interrupt_as_flag() as interrupted:
                reply = self._stream(answer, interrupted)
        except ContextLengthError as error:
            self._messages.pop()
            print(f"{error}\n/reset starts over", file=sys.stderr)
            return
        self._messages.append({"role": "assistant", "content": reply})

    def _stream(self, answer: Answer, interrupted: list[bool]) -> str:
        stream = self._llm.stream(self._prompt(), self._params)
        rate, pieces = Rate(time.monotonic), []
        try:
            for delta in stream:
                rate.count(len(delta.token_ids))
                pieces.append(delta.text)
                answer.add(delta.text, rate.summary())
                if interrupted:
                    break
        finally:
            stream.close()  # type: ignore[attr-defined]  # a generator: aborts the request when it was left early
        return "".join(pieces)

    def _prompt(self) -> str | list[int]:
        if self._has_template:
            return self._llm.chat_prompt(self._messages)
        return "\n".join(message["content"] for message in self._messages)


def _answer_on_screen() -> AbstractContextManager[Answer]:
    """A live status line needs a terminal; into a pipe go the words alone."""
    if not sys.stdout.isatty():
        return PlainAnswer()
    from vivace.cli.live_answer import LiveAnswer

    return LiveAnswer()


@contextmanager
def _interrupt_as_flag() -> Iterator[list[bool]]:
    """Ctrl-C fills the list instead of raising: an exception amid a step would leave the engine half way."""
    pressed: list[bool] = []

    def press(_signal: int, _frame: FrameType | None) -> None:
        pressed.append(True)

    previous = signal.signal(signal.SIGINT, press)
    try:
        yield pressed
    finally:
        signal.signal(signal.SIGINT, previous)
