"""Random JSON schemas of the kinds that requests bring."""

from __future__ import annotations

import random
from typing import Any

WORDS = ("name", "age", "größe", "a b", "x-y", "tags", "住所", 'q"uote', "id", "back\\slash")
PATTERNS = ("^[a-z]{2,5}$", "^(ab|cd)+$", "^\\d{3}-\\d{2}$", "^[^\\s]{1,4}$")
FORMATS = ("date", "uuid", "ipv4", "email", "date-time")


def random_schema(generator: random.Random, depth: int = 3) -> dict[str, Any]:
    """A schema that allows something."""
    kinds = [_string, _integer, _number, _constant, _enumeration, _boolean]
    if depth:
        kinds += [_object, _object, _array, _union]
    return generator.choice(kinds)(generator, depth - 1)


def _string(generator: random.Random, _: int) -> dict[str, Any]:
    low = generator.randint(0, 3)
    return generator.choice(
        [
            {"type": "string", "maxLength": generator.randint(1, 9)},
            {"type": "string", "minLength": low, "maxLength": low + generator.randint(0, 5)},
            {"type": "string", "pattern": generator.choice(PATTERNS)},
            {"type": "string", "format": generator.choice(FORMATS)},
        ]
    )


def _integer(generator: random.Random, _: int) -> dict[str, Any]:
    low = generator.randint(-1000, 1000)
    return generator.choice(
        [
            {"type": "integer", "minimum": low, "maximum": low + generator.randint(0, 500)},
            {"type": "integer", "exclusiveMinimum": low, "exclusiveMaximum": low + 2 + generator.randint(0, 9)},
            {"type": "integer", "multipleOf": generator.randint(2, 9), "minimum": 0, "maximum": 1000},
        ]
    )


def _number(generator: random.Random, _: int) -> dict[str, Any]:
    low = round(generator.uniform(-50, 50), 2)
    return {"type": "number", "minimum": low, "maximum": low + 10}


def _constant(generator: random.Random, _: int) -> dict[str, Any]:
    return {"const": generator.choice([None, True, 3, -1.5, "é", {"a": [1, 2]}, [], "a\nb"])}


def _enumeration(generator: random.Random, _: int) -> dict[str, Any]:
    return {"enum": generator.sample([None, False, 0, 12, "red", "green", "blau", {"k": "v"}, [3]], 3)}


def _boolean(_: random.Random, __: int) -> dict[str, Any]:
    return {"type": "boolean"}


def _object(generator: random.Random, depth: int) -> dict[str, Any]:
    names = generator.sample(WORDS, generator.randint(1, 4))
    return {
        "type": "object",
        "properties": {name: random_schema(generator, depth) for name in names},
        "required": generator.sample(names, generator.randint(0, len(names))),
        "additionalProperties": False,
    }


def _array(generator: random.Random, depth: int) -> dict[str, Any]:
    low = generator.randint(0, 2)
    schema: dict[str, Any] = {"type": "array", "items": random_schema(generator, depth)}
    schema |= {"minItems": low, "maxItems": low + generator.randint(0, 2)}
    if generator.random() < 0.3:
        schema["prefixItems"] = [random_schema(generator, depth)]
        schema["minItems"], schema["maxItems"] = 1, 3
    return schema


def _union(generator: random.Random, depth: int) -> dict[str, Any]:
    return {"anyOf": [random_schema(generator, depth) for _ in range(generator.randint(2, 3))]}


def recursive_schema(generator: random.Random) -> dict[str, Any]:
    """A list, or a tree, that refers to itself."""
    again: dict[str, Any] = {"$ref": "#/$defs/node"}
    more = generator.choice([{"anyOf": [{"type": "null"}, again]}, {"type": "array", "items": again, "maxItems": 2}])
    node = {
        "type": "object",
        "properties": {"value": random_schema(generator, 0), "more": more},
        "required": ["value", "more"],
        "additionalProperties": False,
    }
    return {"$ref": "#/$defs/node", "$defs": {"node": node}}
