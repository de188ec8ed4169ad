"""Where a prompt comes from: the flag, or stdin."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from vivace.core.errors import ConfigError

PromptOption = Annotated[str | None, typer.Option("--prompt", help="The text; - reads it from stdin.")]


def read_prompt(given: str | None, model: str | None) -> str:
    """The prompt's text. Raises `ConfigError` when there is none or stdin is not UTF-8.

    `model` is named then: who gives the text without a flag finds it there.
    """
    if given is None:
        read = "" if model is None else f" ({model!r:.80} was read as the model)"
        raise ConfigError(f"no prompt{read}: give --prompt TEXT, or --prompt - to read it from stdin")
    if given != "-":
        return given
    try:
        return sys.stdin.buffer.read().decode()
    except UnicodeDecodeError as error:
        raise ConfigError(f"stdin is not UTF-8 text (byte {error.start})") from None
