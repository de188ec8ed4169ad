"""The command line as it parses: every command with its flags."""

from __future__ import annotations

from typing import Any

import typer.main

from vivace.cli.app import app


def commands() -> dict[str, Any]:
    """Name (`bench latency`) to command, of everything that runs."""
    return dict(_walk(typer.main.get_command(app), ""))


def flags(command: Any) -> list[str]:
    """Every spelling of every flag, and arguments in capitals."""
    names: list[str] = []
    for parameter in command.params:
        if parameter.param_type_name == "argument":
            names.append(parameter.name.upper())
        else:
            names.extend((*parameter.opts, *parameter.secondary_opts))
    return sorted(names)


def _walk(command: Any, name: str) -> list[tuple[str, Any]]:
    if not hasattr(command, "commands"):
        return [(name, command)]
    found = [(name, command)] if command.invoke_without_command else []  # `vivace models` runs alone too
    for child_name, child in command.commands.items():
        found += _walk(child, f"{name} {child_name}".strip())
    return found
