"""What running a command gives back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Finished:
    stdout: str
    stderr: str
    code: int


Vivace = Callable[..., Finished]
