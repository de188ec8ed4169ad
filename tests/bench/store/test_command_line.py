"""A kept command holds no secret, and a shell understands the rest."""

from __future__ import annotations

import shlex

from vivace.bench.store.command_line import shown_command


def test_the_command_as_a_shell_takes_it() -> None:
    arguments = ["/usr/bin/vivace", "bench", "serve", "--goodput", "ttft:500 tpot:50", "--max-tokens", "3"]
    assert shlex.split(shown_command(arguments)) == ["vivace", *arguments[1:]]


def test_secrets_are_left_out() -> None:
    arguments = ["v", "--api-key", "sk-1", "--api-key=sk-2", "--header", "Authorization: sk-3", "http://u:sk-4@h/v1"]
    shown = shown_command([*arguments, "--api-key"])
    assert "sk-" not in shown
    assert shown.endswith("http://…@h/v1 --api-key")
