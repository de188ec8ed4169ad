"""The command line in this process: arguments in, output and exit code out."""

from __future__ import annotations

from pathlib import Path

import pytest
from command_run import Finished, Vivace
from typer.testing import CliRunner

from vivace.cli.app import app


@pytest.fixture
def vivace() -> Vivace:
    """Run `vivace` with these arguments and this stdin. Anything but a clean exit is raised."""

    def run(*arguments: str, stdin: str = "") -> Finished:
        done = CliRunner().invoke(app, arguments, input=stdin)
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            raise done.exception
        return Finished(done.stdout, done.stderr, done.exit_code)

    return run


@pytest.fixture
def stories(shared: Path) -> str:
    """A real small checkpoint without a chat template."""
    return str(shared / "weights" / "stories260K")
