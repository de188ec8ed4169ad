"""What clients send to constrain an answer, and what is made of it."""

from __future__ import annotations

from typing import Any

import pytest

from vivace.core.errors import RequestError
from vivace.core.structured_outputs import StructuredOutputs
from vivace.serve.response_format import read_constraint

SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}}
AS_SCHEMA = StructuredOutputs.json_schema(SCHEMA)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, None),
        ({"response_format": {"type": "text"}}, None),
        ({"response_format": {"type": "json_object"}}, StructuredOutputs("json_object")),
        (
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "x", "schema": SCHEMA, "strict": True},
                }
            },
            AS_SCHEMA,
        ),
        ({"response_format": {"type": "json_schema", "name": "x", "schema": SCHEMA}}, AS_SCHEMA),
        ({"guided_json": SCHEMA}, AS_SCHEMA),
        ({"guided_json": '{"type": "object"}'}, StructuredOutputs("json_schema", '{"type": "object"}')),
        ({"guided_regex": "a+"}, StructuredOutputs("regex", "a+")),
        ({"guided_choice": ["é", "b"]}, StructuredOutputs("choice", '["é", "b"]')),
        ({"guided_grammar": 'start: "x"'}, StructuredOutputs("grammar", 'start: "x"')),
        ({"structured_outputs": {"json": SCHEMA}}, AS_SCHEMA),
        ({"structured_outputs": {"choice": ["a"], "regex": None}}, StructuredOutputs("choice", '["a"]')),
        ({"structured_outputs": {"json_object": True}}, StructuredOutputs("json_object")),
        ({"response_format": {"type": "text"}, "guided_regex": "b"}, StructuredOutputs("regex", "b")),
    ],
)
def test_constraints(given: dict[str, Any], expected: StructuredOutputs | None) -> None:
    constraint = read_constraint(**given)
    assert (constraint.outputs if constraint else None) == expected


@pytest.mark.parametrize(
    ("given", "param"),
    [
        ({"response_format": {}}, "response_format"),
        ({"response_format": []}, "response_format"),
        ({"response_format": {"type": "xml"}}, "response_format"),
        ({"response_format": {"type": "json_schema"}}, "response_format"),
        ({"response_format": {"type": "json_schema", "json_schema": {"schema": "x"}}}, "response_format"),
        ({"guided_json": 3}, "guided_json"),
        ({"guided_regex": ""}, "guided_regex"),
        ({"guided_regex": ["a"]}, "guided_regex"),
        ({"guided_choice": []}, "guided_choice"),
        ({"guided_choice": "ab"}, "guided_choice"),
        ({"guided_choice": [1]}, "guided_choice"),
        ({"guided_grammar": "x" * 300_000}, "guided_grammar"),
        ({"structured_outputs": {}}, "structured_outputs"),
        ({"structured_outputs": {"json": SCHEMA, "regex": "a"}}, "structured_outputs"),
        ({"structured_outputs": {"whitespace_pattern": " "}}, "structured_outputs"),
        ({"structured_outputs": {"json_object": "yes"}}, "structured_outputs"),
        ({"guided_regex": "a", "guided_choice": ["a"]}, "guided_choice"),
        ({"guided_regex": "a", "response_format": {"type": "json_object"}}, "response_format"),
    ],
)
def test_what_is_wrong_is_named(given: dict[str, Any], param: str) -> None:
    with pytest.raises(RequestError) as caught:
        read_constraint(**given)
    assert caught.value.param == param
