"""The command line: one file a sub-command. Engines are imported inside commands, so that `--help` stays quick."""

from vivace.cli.app import main

__all__ = ["main"]
