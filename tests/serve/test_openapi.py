"""Our OpenAPI document: valid, complete, bound to the served model. What it says is tried by schemathesis."""

from __future__ import annotations

from typing import Any

import httpx
import jsonschema_rs
import pytest
import schemathesis
from served_process import ServedProcess
from starlette.routing import Route

from vivace.serve.app import ROUTES
from vivace.serve.openapi import ServedModel, build_document
from vivace.serve.operations import OPERATIONS

MODEL = ServedModel(("small", "alias"), vocab_size=100, hidden_size=8)
REFUSING = {"retrieve_response"}  # answers 404 to everything, with its reason
METHODS = {"GET", "POST"}


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    return build_document(OPERATIONS, MODEL, secured=True)


def operations(path_item: dict[str, Any]) -> list[dict[str, Any]]:
    return [operation for key, operation in path_item.items() if key != "parameters"]


def schema_of(document: dict[str, Any], name: str) -> jsonschema_rs.Draft202012Validator:
    root = {"$ref": f"#/components/schemas/{name}", "components": document["components"]}
    return jsonschema_rs.Draft202012Validator(root)


def test_is_valid_openapi_3_1(document: dict[str, Any]) -> None:
    assert document["openapi"] == "3.1.0"
    schemathesis.openapi.from_dict(document).validate()


def test_every_route_is_described_and_every_description_has_a_route(document: dict[str, Any]) -> None:
    served = {
        (route.path, method)
        for route in ROUTES
        if isinstance(route, Route) and route.endpoint.__name__ not in REFUSING
        for method in (route.methods or set()) & METHODS
    }
    paths = {path.replace("{model}", "{model:path}"): item for path, item in document["paths"].items()}
    assert {(path, key.upper()) for path, item in paths.items() for key in item if key != "parameters"} == served


def test_names_are_unique_and_references_lead_somewhere(document: dict[str, Any]) -> None:
    names = [operation["operationId"] for path in document["paths"].values() for operation in operations(path)]
    assert len(names) == len(set(names))
    for reference in _references(document):
        part = document
        for key in reference.removeprefix("#/").split("/"):
            part = part[key]


def test_every_failure_is_our_error_but_where_it_is_said(document: dict[str, Any]) -> None:
    for path, methods in document["paths"].items():
        for operation in operations(methods):
            for status, answer in operation["responses"].items():
                schema = answer["content"].get("application/json", {}).get("schema", {})
                is_error = schema.get("$ref", "").endswith("/ErrorResponse")
                assert is_error is (status != "200" and (path, status) != ("/ready", "503"))


@pytest.mark.parametrize("secured", [True, False])
def test_keys_are_asked_for_where_the_server_asks(secured: bool) -> None:
    document = build_document(OPERATIONS, MODEL, secured=secured)
    assert ("security" in document) is secured
    for path, methods in document["paths"].items():
        for operation in operations(methods):
            is_open = path in ("/health", "/ready", "/version", "/", "/dashboard/{asset}")
            assert ("401" in operation["responses"]) is (secured and not is_open)
            assert (operation.get("security") == []) is (secured and is_open)


@pytest.mark.parametrize(
    ("body", "is_valid"),
    [
        ({"input": "a"}, True),
        ({"input": "a", "model": "alias"}, True),
        ({"input": "a", "model": None, "dimensions": 8}, True),
        ({"input": [99]}, True),
        ({"input": [[0], [99]]}, True),
        ({"input": "a", "model": "other"}, False),
        ({"input": "a", "dimensions": 4}, False),
        ({"input": [100]}, False),
        ({"input": [[100]]}, False),
        ({"input": ["a", 1]}, False),
        ({"input": ["a"] * 2049}, False),
        ({"input": [1] * 2049}, True),
        ({"input": "a", "unknown": 1}, False),
        ({}, False),
    ],
)
def test_bounds_are_those_of_the_served_model(document: dict[str, Any], body: dict[str, Any], is_valid: bool) -> None:
    assert schema_of(document, "EmbeddingRequest").is_valid(body) is is_valid


def test_server_gives_its_own_document_to_who_has_a_key(server: ServedProcess) -> None:
    url = f"{server.base_url}/openapi.json"
    assert httpx.get(url, timeout=60.0).status_code == 401
    document = httpx.get(url, headers={"Authorization": f"Bearer {server.api_key}"}, timeout=60.0).json()
    model = ServedModel(("vivace-embedded",), vocab_size=4096, hidden_size=256)
    assert document == build_document(OPERATIONS, model, secured=True)


def _references(part: Any) -> list[str]:
    if isinstance(part, list):
        return [reference for entry in part for reference in _references(entry)]
    if not isinstance(part, dict):
        return []
    own = [part["$ref"]] if isinstance(part.get("$ref"), str) else []
    return own + [reference for entry in part.values() for reference in _references(entry)]
