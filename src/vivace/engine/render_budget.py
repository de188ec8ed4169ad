"""How much work one rendering of a chat template may do, counted, so that the answer is the same on every machine."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from typing import Any

from jinja2 import Undefined

from vivace.core.errors import TemplateError

MAX_STEPS = 400_000  # under two seconds
MAX_CHARS = 1 << 24  # of text made, besides CHARS_PER_INPUT_CHAR for each character that came in
CHARS_PER_INPUT_CHAR = 32
_SCALARS = (int, float, bool, type(None), Undefined)
_COMPARED_PER_STEP = 64  # entries that C code passes over in the time of one counted step


class RenderBudget:
    """Steps and characters that are left. Every `charge_` method raises `TemplateError` when they run out."""

    def __init__(self, inputs: object) -> None:
        self._steps = MAX_STEPS
        self._chars = MAX_CHARS
        self._sizes: dict[int, tuple[object, int]] = {}  # keeps the object, so that its id stays its own
        self._limit = 2**63
        size = self.size_of(inputs)
        self._chars += CHARS_PER_INPUT_CHAR * size
        self._limit = self._chars

    def charge(self, steps: int = 1, chars: int = 0) -> None:
        self._steps -= steps
        self._chars -= chars
        if self._steps < 0:
            raise TemplateError(f"the chat template takes more than {MAX_STEPS} steps")
        if self._chars < 0:
            raise TemplateError("the chat template makes too much text for its input")

    def charge_read(self, value: object) -> None:
        """`value` is compared or passed to a filter, which may look at all of it."""
        if isinstance(value, str):
            self.charge(1, len(value) // 16)
        elif isinstance(value, _SCALARS):
            self.charge()
        else:
            self.charge(1 + _length(value) // _COMPARED_PER_STEP, self.size_of(value) // 16)

    def charge_made(self, value: object) -> None:
        """`value` is new: text counts by its characters, a container by its entries."""
        if isinstance(value, str):
            self.charge(1, len(value))
        elif isinstance(value, list | tuple | dict | set | range):
            self.charge(1 + len(value))
            self.size_of(value)
        elif isinstance(value, int) and value.bit_length() > 4_096:
            raise TemplateError("the chat template makes a number of more than 4096 bits")

    def charge_text_of(self, value: object) -> None:
        """`value` is about to be written as text."""
        self.charge(1, self.size_of(value))

    def size_of(self, value: object) -> int:
        """Characters of `value` as text, about; shared parts count each time. Refuses more than the whole budget."""
        if isinstance(value, str):
            return len(value) + 2
        if isinstance(value, _SCALARS):
            return value.bit_length() // 3 + 8 if isinstance(value, int) else 24
        known = self._sizes.get(id(value))
        if known is not None:
            return known[1]
        size = 64 + sum(self.size_of(part) + 2 for part in _parts(value))
        if size > self._limit:
            raise TemplateError("the chat template makes a value too large for its input")
        self._sizes[id(value)] = (value, size)
        return size


def _length(value: object) -> int:
    return len(value) if isinstance(value, list | tuple | dict | set | range) else 0


def _parts(value: object) -> Iterator[Any]:
    if isinstance(value, dict | Mapping):
        for key, part in value.items():
            yield key
            yield part
    elif isinstance(value, list | tuple | set | range):
        yield from value


_CURRENT: ContextVar[RenderBudget] = ContextVar("render_budget")


def current_budget() -> RenderBudget:
    """The budget of the rendering that runs in this context."""
    return _CURRENT.get()


class use_budget:  # noqa: N801 - reads as a statement: with use_budget(budget):
    """Makes a budget the current one inside a `with` block."""

    def __init__(self, budget: RenderBudget) -> None:
        self._budget = budget

    def __enter__(self) -> None:
        self._token = _CURRENT.set(self._budget)

    def __exit__(self, *error: object) -> None:
        _CURRENT.reset(self._token)
