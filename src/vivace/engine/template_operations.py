"""What a chat template may do to values, each with a bound on its result that is checked before the work."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Callable, ItemsView, Iterable, Iterator, KeysView, ValuesView
from datetime import datetime
from itertools import chain
from typing import Any, cast

from jinja2 import pass_context
from jinja2.filters import FILTERS
from jinja2.runtime import Context
from jinja2.tests import TESTS
from jinja2.utils import Namespace, _PassArg

from vivace.core.errors import TemplateError
from vivace.engine.render_budget import RenderBudget, current_budget

MAX_NUMBER_ARGUMENT = 10_000  # widths, counts and indents; real templates stay under 10
_MAX_POWER_BITS = 4_096
_FREE_NUMBERS = frozenset({"default", "d", "int", "float"})
_KEPT_FILTERS = (
    "abs", "capitalize", "count", "default", "d", "dictsort", "first", "float", "indent", "int", "items", "join",
    "last", "length", "list", "lower", "map", "max", "min", "reject", "rejectattr", "replace", "reverse", "round",
    "select", "selectattr", "sort", "string", "title", "trim", "unique", "upper", "wordcount",
)  # fmt: skip
_DENIED_TEXT_METHODS = frozenset({"encode", "translate", "maketrans"})


def filters() -> dict[str, Callable[..., Any]]:
    """Jinja's filters that chat templates need, and the operations that a compiled template is rewritten to."""
    builtin = cast(dict[str, Callable[..., Any]], FILTERS)
    kept = {name: metered(name, builtin[name]) for name in _KEPT_FILTERS}
    own: dict[str, Callable[..., Any]] = {
        "tojson": to_json,
        "safe": str,
        "escape": lambda value: html.escape(str(value)),
        "e": lambda value: html.escape(str(value)),
        "(concat)": lambda parts: "".join(map(str, parts)),
        "(slice)": lambda value, start, stop, step: value[start:stop:step],
    }
    kept |= {name: metered(name, function) for name, function in own.items()}
    return kept | {"(read)": _read, "(made)": _made, "(iterate)": _iterate}


def tests() -> dict[str, Callable[..., Any]]:
    return {name: metered(name, function) for name, function in cast(dict[str, Callable[..., Any]], TESTS).items()}


def metered(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` as a filter that counts what it reads and makes; never evaluated at compile time."""
    wanted = _PassArg.from_obj(function)

    @pass_context
    def filter_(context: Context, *args: Any, **kwargs: Any) -> Any:
        budget = current_budget()
        budget.charge()
        for value in (*args, *kwargs.values()):
            budget.charge_read(value)
        if name not in _FREE_NUMBERS:
            _check_numbers((*args[1:], *kwargs.values()))
        _check_filter(budget, name, args, kwargs)
        passed = (
            {
                _PassArg.context: (context,),
                _PassArg.eval_context: (context.eval_ctx,),
                _PassArg.environment: (context.environment,),
            }.get(wanted, ())
            if wanted
            else ()
        )
        return settled(budget, function(*passed, *args, **kwargs))

    return filter_


def settled(budget: RenderBudget, result: Any) -> Any:
    """A result, counted; lazy ones become lists, so that no work is left for later."""
    if isinstance(result, Iterator | KeysView | ValuesView | ItemsView):
        result = [*_counted(budget, iter(result))]
    budget.charge_made(result)
    return result


def _counted(budget: RenderBudget, values: Iterable[Any]) -> Iterator[Any]:
    for value in values:
        budget.charge()
        yield value


def _check_numbers(values: Iterable[object]) -> None:
    for value in values:
        if isinstance(value, int) and abs(value) > MAX_NUMBER_ARGUMENT:
            raise TemplateError(
                f"the chat template passes {str(value)[:20]}: at most {MAX_NUMBER_ARGUMENT} is allowed"
            )


def _check_filter(budget: RenderBudget, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Bounds for the filters whose result can be much larger than what they read."""
    if not args:
        return
    value, options = args[0], (*args[1:], *kwargs.values())
    longest_option = max((len(option) for option in options if isinstance(option, str)), default=0)
    if name in ("join", "(concat)"):
        num_parts = len(value) if isinstance(value, str | list | tuple | dict | range) else 0
        budget.charge(1, budget.size_of(value) + longest_option * num_parts)
    elif name == "replace":
        budget.charge(1, budget.size_of(value) + longest_option * _occurrences(str(value), args[1:2]))
    elif name == "indent":
        width = max((option for option in options if isinstance(option, int)), default=longest_option)
        budget.charge(1, (str(value).count("\n") + 1) * max(width, longest_option))
    elif name in (
        "tojson",
        "string",
        "escape",
        "e",
        "safe",
        "trim",
        "upper",
        "lower",
        "title",
        "capitalize",
        "wordcount",
    ):
        spaces = max((option for option in options if isinstance(option, int)), default=longest_option)
        budget.charge(1, budget.size_of(value) * (1 + 8 * spaces))


def _occurrences(text: str, sought: tuple[Any, ...]) -> int:
    return text.count(str(sought[0])) + 1 if sought else 0


@pass_context
def _read(_context: Context, value: Any) -> Any:
    current_budget().charge_read(value)
    return value


@pass_context
def _made(_context: Context, value: Any) -> Any:
    current_budget().charge_made(value)
    return value


class _MeteredIterable:
    """What a `for` loop runs over: each round costs the weight of the loop's body."""

    def __init__(self, values: Any, weight: int) -> None:
        self._values = values
        self._weight = weight

    def __len__(self) -> int:
        return len(self._values)

    def __iter__(self) -> Iterator[Any]:
        budget = current_budget()
        for value in self._values:
            budget.charge(self._weight)
            yield value


@pass_context
def _iterate(_context: Context, values: Any, weight: int) -> _MeteredIterable:
    return _MeteredIterable(values, weight)


def to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """JSON as chat templates expect it: no ASCII or HTML escapes."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def raise_exception(message: object) -> None:
    """A template refuses the conversation."""
    raise TemplateError(str(message)[:1_000])


def strftime_now(pattern: str) -> str:
    if len(pattern) > 100 or re.search(r"%[^a-zA-Z%]*\d", pattern):
        raise TemplateError("strftime_now takes a pattern of at most 100 characters without widths")
    return datetime.now().strftime(pattern)


def make_dict(*args: Any, **kwargs: Any) -> dict[Any, Any]:
    return dict(*args, **kwargs)


class TemplateNamespace(Namespace):
    """Jinja's namespace without underscored names, which reach the interpreter's inside."""

    def __init__(*args: Any, **kwargs: Any) -> None:
        attributes = dict(*args[1:], **kwargs)
        for name in attributes:
            _check_attribute_name(name)
        Namespace.__init__(args[0], attributes)

    def __setitem__(self, name: str, value: Any) -> None:
        _check_attribute_name(name)
        Namespace.__setitem__(self, name, value)

    def __repr__(self) -> str:
        return "<namespace>"  # its values may hold namespaces in turn, each twice: 2^64 of them in 64 assignments


def _check_attribute_name(name: object) -> None:
    if not isinstance(name, str) or name.startswith("_"):
        raise TemplateError(f"a namespace cannot hold the name {str(name)[:40]!r}")


def check_operator(budget: RenderBudget, operator: str, left: Any, right: Any) -> None:
    """Bounds for the operators whose result can be large."""
    if operator == "+":
        if isinstance(left, str | list | tuple) and isinstance(right, str | list | tuple):
            budget.charge(1, (len(left) + len(right)) if isinstance(left, str) else 0)
    elif operator == "*":
        _check_product(budget, left, right)
    elif operator == "**":
        if isinstance(left, int) and isinstance(right, int) and left.bit_length() * abs(right) > _MAX_POWER_BITS:
            raise TemplateError("the chat template computes too large a power")
    elif operator == "%" and isinstance(left, str):
        values = right if isinstance(right, tuple) else (right,)
        _check_format(budget, left, left.count("%"), values)


def _check_product(budget: RenderBudget, left: Any, right: Any) -> None:
    for value, times in ((left, right), (right, left)):
        if isinstance(value, str) and isinstance(times, int):
            budget.charge(1, len(value) * max(times, 0))
        elif isinstance(value, list | tuple) and isinstance(times, int):
            budget.charge(1 + len(value) * max(times, 0))
    if isinstance(left, int) and isinstance(right, int) and left.bit_length() + right.bit_length() > _MAX_POWER_BITS:
        raise TemplateError("the chat template computes too large a product")


def _check_format(budget: RenderBudget, pattern: str, num_fields: int, values: Iterable[Any]) -> None:
    """The result of filling `pattern`: its own text, the widths it names, and the longest value in every field."""
    if "*" in pattern or re.search(r"\{[^{}]*\{", pattern.replace("{{", "")):
        raise TemplateError("the chat template formats with a width that it computes")
    numbers = re.findall(r"\d+", pattern)
    if any(len(number) > 5 for number in numbers):
        raise TemplateError("the chat template formats with too large a width")
    longest = max((budget.size_of(value) for value in values), default=0)
    budget.charge(1, len(pattern) + sum(map(int, numbers)) + num_fields * longest)


def check_text_format(budget: RenderBudget, pattern: str, values: Iterable[Any]) -> None:
    """Bounds for `str.format`; fields may not reach into values, where they would find more than was counted."""
    if re.search(r"\{[^{}:!]*[.\[]", pattern):
        raise TemplateError("the chat template formats with a field of a field")
    _check_format(budget, pattern, pattern.count("{"), values)


def check_text_call(
    budget: RenderBudget, text: str, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    """Bounds for a method of a string."""
    if method in _DENIED_TEXT_METHODS:
        raise TemplateError(f"a chat template cannot call str.{method}")
    _check_numbers(chain(args, kwargs.values()))
    budget.charge(1, len(text))
    for value in chain(args, kwargs.values()):
        budget.charge_read(value)
    if method == "replace" and len(args) > 1 and isinstance(args[1], str):
        budget.charge(1, len(args[1]) * _occurrences(text, args[:1]))
    elif method == "join" and args:
        if not isinstance(args[0], list | tuple | dict | str):
            raise TemplateError("a chat template can only join lists")
        budget.charge(1 + len(args[0]), budget.size_of(args[0]) + len(text) * len(args[0]))
    elif method == "expandtabs":
        budget.charge(1, text.count("\t") * max((value for value in args if isinstance(value, int)), default=8))
