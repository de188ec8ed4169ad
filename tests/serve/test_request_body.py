"""Strict JSON: what every parser reads the same way is read, what two could read differently is refused."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

import msgspec
import pytest
from hypothesis import given, seed, settings
from hypothesis import strategies as st

from vivace.core.errors import RequestError
from vivace.serve.body import MAX_CONTAINERS, MAX_DEPTH, parse_body, parse_json

TEXTS = st.text(st.characters(blacklist_categories=("Cs",), blacklist_characters="\0"))
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXTS,
    lambda inner: st.lists(inner) | st.dictionaries(TEXTS, inner),
)


class Part(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    weight: float = 1.0


class Order(msgspec.Struct, forbid_unknown_fields=True):
    prompt: (
        Annotated[str, msgspec.Meta(min_length=1, max_length=4000)] | Annotated[list[int], msgspec.Meta(max_length=3)]
    )
    n: int = 1
    parts: list[Part] = []
    options: dict[str, int] = {}
    detail: Literal["low", "high"] = "low"


@seed(1)
@settings(deadline=None, max_examples=200)
@given(VALUES, st.booleans())
def test_ordinary_json_is_read_as_it_was_meant(value: Any, ascii_only: bool) -> None:
    assert parse_json(json.dumps(value, ensure_ascii=ascii_only).encode()) == value


@seed(2)
@settings(deadline=None, max_examples=300)
@given(st.binary(max_size=60) | TEXTS.map(str.encode))
def test_anything_is_a_value_or_a_request_error(body: bytes) -> None:
    try:
        value = parse_json(body)
    except RequestError:
        return
    assert json.loads(body) == value


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "not valid JSON"),
        (b"\xef\xbb\xbf{}", "byte order mark"),
        (b'"\xff"', "not UTF-8: invalid start byte at byte 1"),
        (b'"\xed\xa0\x80"', "not UTF-8"),
        (b'"\\ud800"', "half of a surrogate pair"),
        (b'{"\\udfff": 1}', "half of a surrogate pair"),
        (b'["\\u0000"]', "contains NUL"),
        (b'"\x00"', "not valid JSON"),
        (b"NaN", "NaN is not a JSON number"),
        (b"[-Infinity]", "-Infinity is not a JSON number"),
        (b"-1e999", "the number -1e999 is too large"),
        (b"1" * 5_000, "not valid JSON"),
        (b"01", "not valid JSON"),
        (b"1.", "not valid JSON"),
        (b"'a'", "not valid JSON"),
        (b"[1,]", "not valid JSON"),
        (b"{} {}", "not valid JSON"),
        (b'{"a": 1, "a": 2}', "the key 'a' is there twice"),
        (b'{"a": 1, "\\u0061": 2}', "the key 'a' is there twice"),
        (b'{"x": {"a": 1, "a": 1}}', "the key 'a' is there twice"),
        (b"[" * (MAX_DEPTH + 1) + b"]" * (MAX_DEPTH + 1), "more than 64 levels"),
        (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, "more than 64 levels"),
        (b"[" + b"[]," * MAX_CONTAINERS + b"[]]", "more than 65536 arrays and objects"),
    ],
)
def test_what_is_refused(body: bytes, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        parse_json(body)


def test_what_looks_suspect_but_is_not() -> None:
    assert parse_json(b'"\\ud83d\\ude00 \\\\u0000 \\\\ud800"') == "\U0001f600 \\u0000 \\ud800"
    assert parse_json(b"[" * MAX_DEPTH + b"]" * MAX_DEPTH)
    assert parse_json(b'["[[[[" , 1e308, 1e-400]') == ["[[[[", 1e308, 0.0]


@pytest.mark.parametrize(
    ("body", "param", "message"),
    [
        (b"[]", None, "must be a JSON object"),
        (b"null", None, "must be a JSON object"),
        (b"{}", "prompt", "prompt is missing"),
        (b'{"prompt": "a", "nn": 1}', "nn", "the parameter 'nn' is not supported; did you mean 'n'?"),
        (b'{"prompt": "a", "zzzzzz": 1}', "zzzzzz", "the parameter 'zzzzzz' is not supported$"),
        (b'{"prompt": "a", "parts": [{"name": "b", "c": null}]}', "parts[0].c", "is not supported"),
        (b'{"prompt": ""}', "prompt", "prompt: must not be empty$"),
        (b'{"prompt": "%s"}' % (b"a" * 4001), "prompt", "prompt: may have 4,000 characters at most$"),
        (b'{"prompt": [1, 2, 3, 4]}', "prompt", "prompt: may have 3 entries at most$"),
        (b'{"prompt": "a", "detail": "image_url"}', "detail", "detail: 'image_url' is not supported$"),
        (b'{"prompt": 1}', "prompt", "prompt: Expected"),
        (b'{"prompt": [1, "a"]}', "prompt[1]", "Expected `int`, got `str`"),
        (b'{"prompt": "a", "n": true}', "n", "n: Expected `int`, got `bool`"),
        (b'{"prompt": "a", "n": "1"}', "n", "n: Expected `int`, got `str`"),
        (b'{"prompt": "a", "n": 1.5}', "n", "n: Expected `int`, got `float`"),
        (b'{"prompt": "a", "parts": [{"name": "b"}, {}]}', "parts[1].name", r"parts\[1\]\.name is missing"),
        (b'{"prompt": "a", "parts": [{"name": "b", "c": 1}]}', "parts[0].c", "is not supported"),
        (b'{"prompt": "a", "options": {"x": "y"}}', "options[...]", "Expected `int`, got `str`"),
    ],
)
def test_fields_that_do_not_fit_are_named(body: bytes, param: str | None, message: str) -> None:
    with pytest.raises(RequestError, match=message) as error:
        parse_body(body, Order)
    assert error.value.param == param


def test_a_body_becomes_its_type() -> None:
    order = parse_body(b'{"prompt": [1, 2], "parts": [{"name": "a", "weight": 2}], "n": 3.0}', Order)
    assert order == Order([1, 2], 3, parts=[Part("a", 2.0)])
