"""docs/api.md says what the OpenAPI document says: every route and every parameter, no other."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from vivace.serve.openapi import ServedModel, build_document
from vivace.serve.operations import OPERATIONS

TEXT = (Path(__file__).parents[2] / "docs" / "api.md").read_text()
SECTIONS = dict(re.findall(r"^#{2,3} (.+?)\n(.*?)(?=^#{2,3} |\Z)", TEXT, re.MULTILINE | re.DOTALL))
ROUTES = [title for title in SECTIONS if re.match(r"(GET|POST) /", title)]
DOCUMENT = build_document(OPERATIONS, ServedModel(("small",), vocab_size=100, hidden_size=8), secured=True)


def parameters(section: str) -> set[str]:
    """Names in the first column of a section's tables."""
    rows = re.findall(r"^\| (`.+?`(?:, `.+?`)*) \|", SECTIONS[section], re.MULTILINE)
    return {name for row in rows for name in re.findall(r"`([^`]+)`", row)}


def operation(title: str) -> dict[str, Any]:
    method, path = title.split()
    return DOCUMENT["paths"][path][method.lower()]


def test_every_route_has_its_section() -> None:
    described = {
        f"{method.upper()} {path}"
        for path, item in DOCUMENT["paths"].items()
        for method in item
        if method != "parameters"
    }
    assert set(ROUTES) == described


@pytest.mark.parametrize("title", ROUTES)
def test_every_parameter_has_its_row(title: str) -> None:
    body = operation(title).get("requestBody")
    expected: set[str] = set()
    if body is not None:
        name = body["content"]["application/json"]["schema"]["$ref"].rsplit("/", 1)[-1]
        expected = set(DOCUMENT["components"]["schemas"][name]["properties"])
    documented = parameters(title)
    head = SECTIONS[title].partition("| parameter |")[0]
    for link, section in (("(#shared-", "Shared parameters"), ("(#sampling-", "Sampling parameters")):
        if link in head:
            documented |= parameters(section)
    assert documented == expected
