"""Constraints made to hurt whoever compiles them."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from vivace.core.structured_outputs import StructuredOutputs


def _nested(depth: int, wrap: Callable[[Any], Any]) -> Any:
    value: Any = {"type": "string"}
    for _ in range(depth):
        value = wrap(value)
    return value


def _properties(count: int, value: Any) -> dict[str, Any]:
    return {f"property_{number}": value for number in range(count)}


_CHAIN = {
    f"a{number}": {
        "type": "object",
        "properties": {"x": {"$ref": f"#/$defs/a{number + 1}"}, "y": {"$ref": f"#/$defs/a{number + 1}"}},
        "required": ["x", "y"],
    }
    for number in range(300)
}

SCHEMAS: dict[str, Any] = {
    "doubling references": {"$ref": "#/$defs/a0", "$defs": {**_CHAIN, "a300": {"type": "string"}}},
    "reference circle": {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}},
    "circular allOf": {"$ref": "#/$defs/a", "$defs": {"a": {"allOf": [{"$ref": "#/$defs/a"}, {"type": "object"}]}}},
    "missing reference": {"$ref": "#/definitions/missing"},
    "remote reference": {"$ref": "http://127.0.0.1:9/schema.json"},
    "huge enum": {"enum": [f"value {number * 7919 % 100003}" for number in range(12_000)]},
    "enum of objects": {"enum": [{"a": number, "b": [number] * 3} for number in range(5_500)]},
    "huge minItems": {"type": "array", "items": {"type": "integer"}, "minItems": 10**6},
    "huge maxItems": {"type": "array", "items": _properties(20, True), "minItems": 10**4, "maxItems": 10**7},
    "huge maxLength": {"type": "string", "minLength": 50_000, "maxLength": 2 * 10**9},
    "3000 properties": {"type": "object", "properties": _properties(3_000, {"type": "string", "maxLength": 40})},
    "overlapping patterns": {"type": "object", "patternProperties": {f"^a.*{n}.*b$": True for n in range(300)}},
    "nested anyOf": _nested(12, lambda inner: {"anyOf": [inner, {"type": "array", "items": inner}]}),
    "exploding allOf": {
        "allOf": [
            {"anyOf": [{"required": [f"p{n}"], "properties": {f"p{n}": True}}, {"required": [f"q{n}"]}]}
            for n in range(22)
        ]
    },
    "look-around": {"type": "string", "pattern": "^(?=.*a)(?!.*b).*$"},
    "deep arrays": _nested(900, lambda inner: {"type": "array", "items": inner}),
    "multipleOf": {"type": "integer", "multipleOf": 99_991, "minimum": -(10**15), "maximum": 10**15},
    "number range": {"type": "number", "minimum": -1.2345678901234e-200, "maximum": 9.87654321e300},
}
OTHERS = {
    "exponential expression": StructuredOutputs("regex", "(a|aa)*(a|aa){1000}"),
    "nested counts": StructuredOutputs("regex", "((a{1,100}){1,100}){1,100}"),
    "counts of anything": StructuredOutputs("regex", "(.{0,5000}a.{0,5000}){100}"),
    "unicode counts": StructuredOutputs("regex", r"(\w{1,500}\s\p{L}{1,500}){50}"),
    "many states": StructuredOutputs("regex", "(a|b)*a(a|b){28}"),
    "backreference": StructuredOutputs("regex", r"(a+)b\1"),
    "ambiguous grammar": StructuredOutputs("grammar", 'start: s\ns: s s s s | s s | "a" | '),
    "substrings": StructuredOutputs(
        "grammar", 'start: T\nT: %regex {"substring_chars": ' + json.dumps("abcab" * 6_000) + "}"
    ),
    "negations": StructuredOutputs(
        "grammar", "start: T\nT: ~(/(a|b)*a(a|b){14}/) & /(a|b|c)*/ & ~/.*abcabc.*/ & ~(/(c|b)*c(a|c){14}/)"
    ),
}


def hostile_constraints() -> dict[str, StructuredOutputs]:
    """By what is hostile about them."""
    return {name: StructuredOutputs.json_schema(schema) for name, schema in SCHEMAS.items()} | OTHERS
