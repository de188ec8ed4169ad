"""Our OpenAPI 3.1 document, made from the types that check the requests: what is written is what is so."""

from __future__ import annotations

from collections.abc import Sequence
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
    404: "There is no such model.",
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


def build_document(operations: Sequence[Operation], *, models: Sequence[str], secured: bool) -> Json:
    """The document as JSON values. `models` are the names that this server answers to; `secured`: keys are needed."""
    schemas = _Schemas(operations)
    paths: dict[str, Json] = {}
    for operation in operations:
        paths.setdefault(operation.path, {})[operation.method.lower()] = _operation(operation, schemas, secured)
    document: Json = {
        "openapi": "3.1.0",
        "info": {"title": "Vivace", "version": __version__},
        "paths": paths,
        "components": {"schemas": schemas.components(models), "headers": HEADERS},
    }
    if secured:
        document["components"]["securitySchemes"] = {SECURITY: {"type": "http", "scheme": "bearer"}}
        document["security"] = [{SECURITY: []}]
    return document


class _Schemas:
    """JSON schemas of all types of all operations."""

    def __init__(self, operations: Sequence[Operation]) -> None:
        named = ((one.request, one.response, one.event, *one.failures.values(), ErrorResponse) for one in operations)
        self._types = list(dict.fromkeys(kind for kind in chain.from_iterable(named) if kind is not None))
        self._references, self._components = msgspec.json.schema_components(
            self._types, ref_template="#/components/schemas/{name}"
        )

    def __getitem__(self, kind: Any) -> Json:
        """The schema of a type, or the reference to it."""
        return self._references[self._types.index(kind)]

    def components(self, models: Sequence[str]) -> Json:
        """The schemas that others refer to. The `model` of a request is one of `models`."""
        for schema in self._components.values():
            is_request = schema.get("additionalProperties") is False
            if is_request and (model := schema["properties"].get("model")) is not None:
                optional = [None] if "default" in model else []
                model.clear()
                model["enum"] = [*models, *optional]
        return self._components


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
        return operation.request is not None
    if operation.is_open:
        return status in (431, 500)
    return secured or status != 401


def _success(operation: Operation, schemas: _Schemas) -> Json:
    content: Json = {}
    if operation.response is not None:
        content["application/json"] = schemas[operation.response]
    if operation.text_type is not None:
        content[operation.text_type] = {"type": "string"}
    answer = _answer("The answer.", content, 200)
    if operation.event is not None:
        answer["content"]["text/event-stream"] = {
            "schema": {"type": "string", "description": "Lines `data: EVENT`, the last one `data: [DONE]`."},
            "x-event": schemas[operation.event],
        }
    return answer


def _answer(description: str, content: Json, status: int) -> Json:
    headers = [REQUEST_ID, RETRY_AFTER] if status in RETRIED else [REQUEST_ID]
    return {
        "description": description,
        "headers": {name: {"$ref": f"#/components/headers/{name}"} for name in headers},
        "content": {media_type: {"schema": schema} for media_type, schema in content.items()},
    }
