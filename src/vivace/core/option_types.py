"""Whether a value that a file or a caller gave fits its field: Python's dataclasses do not look."""

from __future__ import annotations

from dataclasses import fields
from functools import cache
from types import UnionType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from vivace.core.errors import ConfigError
from vivace.core.speculation import SpeculativeConfig

_KINDS: dict[Any, tuple[str, tuple[type, ...]]] = {
    str: ("a string", (str,)),
    bool: ("true or false", (bool,)),
    int: ("an integer", (int,)),
    float: ("a number", (int, float)),
}


@cache
def field_types(owner: type) -> dict[str, Any]:
    """Annotations by field. Evaluating them takes a millisecond, once."""
    return get_type_hints(owner)


def check_types(config: Any) -> None:
    """Every field of a dataclass's instance. Raises `ConfigError` for the first that does not fit."""
    types = field_types(config.__class__)
    for field in fields(config):
        check_type(field.name, getattr(config, field.name), types[field.name])


def check_type(name: str, value: object, hint: Any) -> None:
    """Compare a value with its field's annotation. Raises `ConfigError` that begins with the name.

    Known are scalars, choices, lists of strings and `SpeculativeConfig`, each perhaps None; a field of any other type
    is left to the rules of its own class.
    """
    kinds = get_args(hint) if isinstance(hint, UnionType) else (hint,)
    if value is None and type(None) in kinds:
        return
    hint = kinds[0]
    if hint is SpeculativeConfig:
        SpeculativeConfig.parse(value)
    elif get_origin(hint) is Literal:
        if not isinstance(value, str) or value not in get_args(hint):
            raise ConfigError(f"{name} must be one of {', '.join(get_args(hint))}, not {value!r}")
    elif hint == tuple[str, ...]:
        if not isinstance(value, tuple) or not all(isinstance(entry, str) for entry in value):
            raise ConfigError(f"{name} must be a list of strings, not {value!r}")
    elif hint in _KINDS:
        expected, types = _KINDS[hint]
        if not isinstance(value, types) or (isinstance(value, bool) and hint is not bool):
            raise ConfigError(f"{name} must be {expected}, not {value!r}")
