"""The command line's flags are a promise: this list changes only on purpose.

After an intended change: `python tests/architecture/test_flags.py > tests/architecture/flags.txt`.
"""

from __future__ import annotations

from pathlib import Path

from command_tree import commands, flags

from vivace.cli.options import ENGINE_HELP, SAMPLING_HELP, SERVE_HELP
from vivace.core.config import EngineConfig
from vivace.core.sampling import SamplingParams
from vivace.serve.config import ServeConfig

FROZEN = Path(__file__).with_name("flags.txt")


def _listing() -> str:
    return "".join(f"{name} {flag}\n" for name, command in sorted(commands().items()) for flag in flags(command))


def test_flags_are_the_frozen_ones() -> None:
    assert _listing() == FROZEN.read_text()


def test_every_field_is_a_flag() -> None:
    assert set(ENGINE_HELP) | {"model"} == set(EngineConfig.__slots__)
    assert set(SAMPLING_HELP) == set(SamplingParams.__slots__)
    assert set(SERVE_HELP) == set(ServeConfig.__slots__)


def test_every_flag_has_a_help_text() -> None:
    silent = [
        f"{name} {parameter.name}"
        for name, command in commands().items()
        for parameter in command.params
        if parameter.param_type_name == "option" and not parameter.help
    ]
    assert not silent


if __name__ == "__main__":
    print(_listing(), end="")
