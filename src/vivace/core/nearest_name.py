"""What to say of a name that is not known."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches


def nearest_name(name: str, known: Sequence[str]) -> str:
    """The end of a message: the known name that was probably meant, else all of them."""
    longer = [one for one in known if name and one.startswith(name)]
    near = longer[:1] or get_close_matches(name, known, n=1)
    return f"; did you mean {near[0]!r}?" if near else f"; known: {', '.join(known)}"
