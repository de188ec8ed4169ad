"""`response_format` and vLLM's extras (`structured_outputs`, `guided_*`) as one constraint."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vivace.core.errors import RequestError
from vivace.core.structured_outputs import StructuredOutputs
from vivace.serve.wire.sampling import ConstrainedFields


@dataclass(frozen=True, slots=True)
class Constraint:
    """What the text must be, and the parameter that asked for it (for error messages)."""

    outputs: StructuredOutputs
    param: str


def constraint_of(body: ConstrainedFields) -> Constraint | None:
    """`read_constraint` of a body's fields."""
    return read_constraint(
        response_format=body.response_format,
        structured_outputs=body.structured_outputs,
        guided_json=body.guided_json,
        guided_regex=body.guided_regex,
        guided_choice=body.guided_choice,
        guided_grammar=body.guided_grammar,
    )


def read_constraint(
    *,
    response_format: Mapping[str, Any] | None = None,
    structured_outputs: Mapping[str, Any] | None = None,
    guided_json: Mapping[str, Any] | str | None = None,
    guided_regex: str | None = None,
    guided_choice: list[str] | None = None,
    guided_grammar: str | None = None,
) -> Constraint | None:
    """The request's constraint, or None. Raises `RequestError` for two at once and for what is malformed."""
    guided = {"json": guided_json, "regex": guided_regex, "choice": guided_choice, "grammar": guided_grammar}
    found = [_read(kind, value, f"guided_{kind}") for kind, value in guided.items() if value is not None]
    if structured_outputs is not None:
        found.append(_read_structured(structured_outputs))
    if response_format is not None and (constraint := _read_response_format(response_format)) is not None:
        found.append(constraint)
    if len(found) > 1:
        raise RequestError(f"{found[0].param} and {found[1].param} exclude each other", param=found[1].param)
    return found[0] if found else None


def _read_response_format(response_format: Mapping[str, Any]) -> Constraint | None:
    param = "response_format"
    if not isinstance(response_format, Mapping):
        raise RequestError("response_format must be an object", param=param)
    match response_format.get("type"):
        case "text":
            return None
        case "json_object":
            return Constraint(StructuredOutputs("json_object"), param)
        case "json_schema":
            holder = response_format.get("json_schema", response_format)  # the Responses API is flat
            schema = holder.get("schema") if isinstance(holder, Mapping) else None
            if not isinstance(schema, Mapping):
                raise RequestError("response_format.json_schema.schema must be a JSON schema", param=param)
            return _read("json", schema, param)
        case other:
            raise RequestError(
                f"response_format.type must be text, json_object or json_schema, not {other!r}", param=param
            )


def _read_structured(values: Mapping[str, Any]) -> Constraint:
    """vLLM's `structured_outputs`: one of json, regex, choice, grammar, json_object."""
    param = "structured_outputs"
    given = {key: value for key, value in values.items() if value is not None} if isinstance(values, Mapping) else {}
    if len(given) != 1:
        raise RequestError("structured_outputs takes exactly one constraint", param=param)
    ((kind, value),) = given.items()
    if kind == "json_object":
        if value is not True:
            raise RequestError("structured_outputs.json_object must be true", param=param)
        return Constraint(StructuredOutputs("json_object"), param)
    return _read(kind, value, param)


def _read(kind: str, value: Any, param: str) -> Constraint:
    try:
        return Constraint(_outputs(kind, value), param)
    except RequestError as error:
        raise RequestError(str(error), param=param) from None


def _outputs(kind: str, value: Any) -> StructuredOutputs:
    match kind:
        case "json":
            if not isinstance(value, str | Mapping):
                raise RequestError("a JSON schema must be an object or its JSON text")
            return StructuredOutputs.json_schema(value)
        case "choice":
            return StructuredOutputs.choice(value if isinstance(value, list) else [])
        case "regex":
            return StructuredOutputs("regex", value)
        case "grammar":
            return StructuredOutputs("grammar", value)
        case _:
            raise RequestError(f"unknown constraint {kind!r}; known: json, regex, choice, grammar, json_object")
