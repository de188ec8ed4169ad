"""The command that made a run, to run it again: without the secrets that were on it."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence

HIDDEN = "…"
_SECRET_OPTION = re.compile(r"--?[\w-]*(key|token|secret|password|header)$", re.IGNORECASE)
_USER_IN_URL = re.compile(r"(?<=://)[^/@\s]+(?=@)")


def shown_command(arguments: Sequence[str]) -> str:
    """What a shell would take, with `vivace` for the script's path and `…` for keys, headers and users in URLs."""
    shown, hide_next = ["vivace"], False
    for argument in arguments[1:]:
        option, equals, _ = argument.partition("=")
        if hide_next:
            shown.append(HIDDEN)
        elif equals and _SECRET_OPTION.match(option):
            shown.append(f"{option}={HIDDEN}")
        else:
            shown.append(_USER_IN_URL.sub(HIDDEN, argument))
        hide_next = not hide_next and not equals and bool(_SECRET_OPTION.match(argument))
    return " ".join(part if HIDDEN in part and " " not in part else shlex.quote(part) for part in shown)
