"""`--goodput ttft:500 tpot:50`: bounds one after another, as vLLM's benchmark takes them."""

from __future__ import annotations

import re
from typing import Any

from typer.core import TyperCommand

FLAG = "--goodput"
_BOUND = re.compile(r"[a-z0-9]+:[^/]*$")


class GoodputCommand(TyperCommand):
    """A command whose --goodput takes every bound that follows it."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        return super().parse_args(ctx, spread_bounds(args))


def spread_bounds(arguments: list[str]) -> list[str]:
    """A flag of its own for each bound after `--goodput`."""
    spread: list[str] = []
    is_bound_next = False
    for argument in arguments:
        if is_bound_next and _BOUND.match(argument) and spread[-1] != FLAG:
            spread.append(FLAG)
        is_bound_next = argument == FLAG or (is_bound_next and bool(_BOUND.match(argument)))
        spread.append(argument)
    return spread
