"""How a command ends when it does not end well: one line on stderr, and an exit code that says which kind."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from functools import wraps

import typer

from vivace.core.errors import VivaceError

EXIT_ERROR = 2
EXIT_INTERRUPTED = 130  # 128 + SIGINT, as shells report it
INTERRUPTED = "interrupted"
GOES_ON = ": the same command goes on from what is done"  # of every command with --output
EXIT_BROKEN_PIPE = 141  # 128 + SIGPIPE


def guarded(command: Callable[..., None]) -> Callable[..., None]:
    """Turn a `VivaceError` into one line and exit code 2; an interrupt into 130; a reader that left into 141."""

    @wraps(command)
    def run(*args: object, **options: object) -> None:
        try:
            command(*args, **options)
            sys.stdout.flush()
        except VivaceError as error:
            print(f"vivace: {one_line(str(error))}", file=sys.stderr)
            raise typer.Exit(EXIT_ERROR) from None
        except KeyboardInterrupt:
            print(f"vivace: {INTERRUPTED}{GOES_ON if options.get('output') else ''}", file=sys.stderr)
            raise typer.Exit(EXIT_INTERRUPTED) from None
        except BrokenPipeError:
            discard_stdout()
            raise typer.Exit(EXIT_BROKEN_PIPE) from None

    return run


def one_line(text: str) -> str:
    """Text that cannot break a log: newlines become blanks, control characters are escaped."""
    joined = " ".join(text.split())
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in joined)


def discard_stdout() -> None:
    """Point stdout at nothing, so that Python's flush at exit does not complain about the closed pipe again."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)
