"""Our OpenAPI 3.1 document, made from the types that check the requests: what is written is what is so."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import msgspec

from vivace import __version__
from vivace.serve.operations import Operation
from vivace.serve.wire.errors import ErrorResponse

Json = dict[str, Any]

FAILURES = {
    400: "The request is wrong: `param` names what is, `message` says what to do.",
    401: "No valid key was sent.",
    404: "There is no such thing.",
    408: "The request did not arrive in time.",
    413: "The body is too long.",
    415: "The body is not plain JSON in UTF-8.",
    429: "Too much is queued: come again after Retry-After seconds.",
    431: "The headers are too long or too many.",
    500: "The server failed; its log says more under X-Request-Id.",
    503: "Nothing is served now: the model is loading or the server is draining.",
    504: "The request's time was over before its answer.",
}
BODY_FAILURES = frozenset({400, 404, 408, 413, 415, 429, 504})  # only of routes that read a body
RETRIED = frozenset({429, 503})
SECURITY = "api_key"
REQUEST_ID = "X-Request-Id"
RETRY_AFTER = "Retry-After"
HEADERS: Json = {
    REQUEST_ID: {
        "description": "Names this request in the server's log.",
        "required": True,
        "schema": {"type": "string"},
    },
    RETRY_AFTER: {"description": "Seconds.", "required": True, "schema": {"type": "integer", "minimum": 1}},
}


@dataclass(frozen=True, slots=True)
class ServedModel:
    """What the document says of this server: bounds that no type knows."""

    names: tuple[str, ...]
    vocab_size: int
    hidden_size: int


def build_document(operations: Sequence[Operation], model: ServedModel, *, secured: bool) -> Json:
    """The document as JSON values. `secured`: keys are needed."""
    schemas = _Schemas(operations, model)
    paths: dict[str, Json] = {}
    for operation in operations:
        path = paths.setdefault(operation.path, {})
        path[operation.method.lower()] = _operation(operation, schemas, secured)
        segments = {"model": {"enum": [*model.names]}} if "{model}" in operation.path else operation.segments
        if segments:
            path["parameters"] = [
                {"name": name, "in": "path", "required": True, "schema": schema} for name, schema in segments.items()
            ]
    document: Json = {
        "openapi": "3.1.0",
        "info": {"title": "Vivace", "version": __version__},
        "paths": paths,
        "components": {"schemas": schemas.components, "headers": HEADERS},
    }
    if secured:
        document["components"]["securitySchemes"] = {SECURITY: {"type": "http", "scheme": "bearer"}}
        document["security"] = [{SECURITY: []}]
    return document


class _Schemas:
    """JSON schemas of all types of all operations. `components` are those that others refer to."""

    def __init__(self, operations: Sequence[Operation], model: ServedModel) -> None:
        named = (
            (one.request, one.response, *one.events, *one.failures.values(), ErrorResponse) for one in operations
        )
        self._types = list(dict.fromkeys(kind for kind in chain.from_iterable(named) if kind is not None))
        self._references, self.components = msgspec.json.schema_components(
            self._types, ref_template="#/components/schemas/{name}"
        )
        _bind(self._references, model)
        _bind(self.components, model)

    def __getitem__(self, kind: Any) -> Json:
        """The schema of a type, or the reference to it."""
        return self._references[self._types.index(kind)]


def _bind(schema: Any, model: ServedModel) -> None:
    """Write into a schema what this server's model allows, wherever it is said."""
    if isinstance(schema, list):
        for entry in schema:
            _bind(entry, model)
    if not isinstance(schema, dict):
        return
    if schema.get("format") == "token-id":
        schema["maximum"] = model.vocab_size - 1
    if schema.get("additionalProperties") is False:  # a request
        allowed = {"model": model.names, "dimensions": (model.hidden_size,)}
        for name in allowed.keys() & schema["properties"].keys():
            schema["properties"][name] = {"enum": [*allowed[name], None]}
    for entry in schema.values():
        _bind(entry, model)


def _operation(operation: Operation, schemas: _Schemas, secured: bool) -> Json:
    described: Json = {
        "operationId": operation.name,
        "summary": operation.summary,
        "responses": {"200": _success(operation, schemas)},
    }
    for status, description in FAILURES.items():
        if status in operation.failures or _may_fail(operation, status, secured):
            kind = operation.failures.get(status, ErrorResponse)
            described["responses"][str(status)] = _answer(description, {"application/json": schemas[kind]}, status)
    if operation.request is not None:
        content = {"application/json": {"schema": schemas[operation.request]}}
        described["requestBody"] = {"required": True, "content": content}
    if operation.is_open and secured:
        described["security"] = []
    return described


def _may_fail(operation: Operation, status: int, secured: bool) -> bool:
    if status in BODY_FAILURES:
        return operation.request is not None or (status == 404 and "{" in operation.path)
    if operation.is_open:
        return status in (431, 500)
    return secured or status != 401


def _success(operation: Operation, schemas: _Schemas) -> Json:
    content: Json = {}
    if operation.response is not None:
        content["application/json"] = schemas[operation.response]
    for text_type in operation.text_types:
        content[text_type] = {"type": "string"}
    if operation.events:
        content["text/event-stream"] = _event([schemas[kind] for kind in (*operation.events, ErrorResponse)])
    return _answer("The answer.", content, 200)


def _event(contents: list[Json]) -> Json:
    """One server-sent event: OpenAPI 3.1 has no word for a stream, and its readers take the schema for each event."""
    data = {"type": "string", "contentMediaType": "application/json", "contentSchema": {"anyOf": contents}}
    return {
        "type": "object",
        "description": "Each event. Completions and chats end with `[DONE]`; an error may come instead of the rest.",
        "required": ["data"],
        "properties": {"event": {"type": "string"}, "data": {"anyOf": [{"const": "[DONE]"}, data]}},
    }


def _answer(description: str, content: Json, status: int) -> Json:
    headers = [REQUEST_ID, RETRY_AFTER] if status in RETRIED else [REQUEST_ID]
    return {
        "description": description,
        "headers": {name: {"$ref": f"#/components/headers/{name}"} for name in headers},
        "content": {media_type: {"schema": schema} for media_type, schema in content.items()},
    }
