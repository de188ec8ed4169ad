"""A request's body: strict JSON within bounds, then a typed value.

Stricter than `json.loads`: no duplicate keys, NaN, Infinity, numbers past float64, byte order mark, NUL or lone
surrogates; at most 64 levels. What two parsers could read differently must not pass: a proxy may have checked it.
"""

from __future__ import annotations

import asyncio
import json
import math
import re
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from typing import Any, NoReturn, TypeVar

import msgspec
from starlette.requests import ClientDisconnect, Request

from vivace.core.errors import RequestError
from vivace.serve.body_room import BodyReader
from vivace.serve.errors import HttpError

T = TypeVar("T")

MAX_DEPTH = 64
MAX_EXACT = 2**53  # below it float64 holds every integer
MAX_CONTAINERS = 65_536  # 2 million empty lists in 4 MiB would take seconds to look at; a chat has a few hundred
THREAD_BYTES = 128 * 1024  # larger bodies take over 1 ms to parse: off the event loop

_TOO_DEEP = f"the body is nested more than {MAX_DEPTH} levels deep"
_SUSPECT_ESCAPE = re.compile(rb"\\u(?:0000|d[89a-f])", re.IGNORECASE)  # NUL, surrogates
_PATH = re.compile(r" - at (?:`key` in )?`\$\.?([^`]*)`$")
_LENGTH = re.compile(r"^Expected `(\w+)` of length (<=|>=) (\d+)$")
_CHOICE = re.compile(r"^Invalid enum value (.*)$")
_UNITS = {"str": "characters", "array": "entries", "object": "keys"}
_FIELD = re.compile(r"^Object (contains unknown|missing required) field `([^`]*)`")


async def read_body(request: Request, kind: type[T], at_door: Callable[[Request, bytes], None] | None = None) -> T:
    """The body as a `kind` (a msgspec Struct; give it `forbid_unknown_fields=True`).

    `at_door` sees the bytes before they are parsed, and may refuse them. Raises `HttpError` 415 (not JSON, or
    compressed) and 413 (too long), `RequestError` with the field's name.
    """
    _check_content_type(request.headers)
    with request.app.state.bodies.reader() as reader:
        body = await _read_bytes(request, request.app.state.config.max_body_bytes, reader)
        if at_door is not None:
            at_door(request, body)
        if len(body) > THREAD_BYTES:
            return await asyncio.to_thread(parse_body, body, kind)
        return parse_body(body, kind)


def parse_body(body: bytes, kind: type[T]) -> T:
    """`read_body` without the connection."""
    return _convert(parse_json(body), kind)


def parse_json(body: bytes) -> Any:
    """Strict JSON (see the module); `RequestError` says what is wrong with it."""
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError as error:
        raise RequestError(f"the body is not UTF-8: {error.reason} at byte {error.start}") from None
    if text.startswith("\ufeff"):
        raise RequestError("the body begins with a byte order mark: send plain UTF-8")
    try:
        value = _DECODER.decode(text)
    except RecursionError:
        raise RequestError(_TOO_DEEP) from None
    except ValueError as error:  # JSONDecodeError too; an integer of more than 4,300 digits
        raise RequestError(f"the body is not valid JSON: {error}") from None
    if body.count(b"[") + body.count(b"{") > MAX_DEPTH:  # else it cannot be too deep; spares a walk over every id
        _check_depth(value)
    if _SUSPECT_ESCAPE.search(body):
        _check_strings(value)
    return value


def _check_content_type(headers: Mapping[str, str]) -> None:
    media_type, _, parameters = headers.get("content-type", "").partition(";")
    if media_type.strip().lower() != "application/json":
        raise HttpError(415, "send the body as Content-Type: application/json", param="Content-Type")
    for parameter in parameters.lower().split(";"):
        name, _, value = parameter.strip().partition("=")
        if name == "charset" and value.strip('"') not in ("utf-8", "utf8"):
            raise HttpError(415, "send the body in UTF-8", param="Content-Type")
    if headers.get("content-encoding", "identity").strip().lower() != "identity":
        raise HttpError(415, "send the body uncompressed, without Content-Encoding", param="Content-Encoding")


async def _read_bytes(request: Request, max_bytes: int, reader: BodyReader) -> bytes:
    too_long = HttpError(413, f"the body may have {max_bytes} bytes at most", code="body_too_large")
    if int(request.headers.get("content-length", 0)) > max_bytes:  # the protocol let digits through only
        raise too_long
    body = bytearray()
    while True:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        part = message.get("body", b"")
        reader.take(len(part))
        body += part
        if len(body) > max_bytes:
            raise too_long
        if not message.get("more_body", False):
            return bytes(body)


def _check_depth(value: Any) -> None:
    """Level by level, so that a million small lists cost no recursion; the decoder's own limit is near 1,000."""
    level: list[Any] = [[value]]
    num_containers = 0
    for _ in range(MAX_DEPTH + 1):
        level = [
            child
            for container in level
            for child in (container.values() if isinstance(container, dict) else container)
            if isinstance(child, dict | list)
        ]
        if not level:
            return
        num_containers += len(level)
        if num_containers > MAX_CONTAINERS:
            raise RequestError(f"the body has more than {MAX_CONTAINERS} arrays and objects")
    raise RequestError(_TOO_DEEP)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise RequestError(f"the key {key!r} is there twice", param=key)
            seen.add(key)
    return value


def _number(text: str) -> float:
    """JSON does not tell 5.0 from 5: where an integer is wanted, both are one."""
    value = float(text)
    if not math.isfinite(value):
        raise RequestError(f"the number {text[:40]} is too large")
    return int(value) if value.is_integer() and abs(value) < MAX_EXACT else value


def _constant(name: str) -> NoReturn:
    raise RequestError(f"the body is not valid JSON: {name} is not a JSON number")


_DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_float=_number, parse_constant=_constant)


def _check_strings(value: Any) -> None:
    """No NUL, no lone surrogate, in any key or string."""
    if isinstance(value, str):
        if "\0" in value:
            raise RequestError("a string in the body contains NUL")
        if any("\ud800" <= char <= "\udfff" for char in value):
            raise RequestError("a string in the body contains half of a surrogate pair")
    elif isinstance(value, list):
        for entry in value:
            _check_strings(entry)
    elif isinstance(value, dict):
        for key, entry in value.items():
            _check_strings(key)
            _check_strings(entry)


def _convert(value: Any, kind: type[T]) -> T:
    if not isinstance(value, dict):
        raise RequestError("the body must be a JSON object")
    try:
        return msgspec.convert(value, kind, strict=True)
    except msgspec.ValidationError as error:
        raise _explained(str(error), kind) from None


def _bound(found: re.Match[str]) -> str:
    """In words: `1` entry at least is a list that is not empty."""
    kind, side, bound = found.groups()
    if (side, bound) == (">=", "1"):
        return "must not be empty"
    edge = "most" if side == "<=" else "least"
    return f"may have {int(bound):,} {_UNITS[kind]} at {edge}"


def _explained(message: str, kind: type[Any]) -> RequestError:
    """msgspec's message with the field's name taken out of it."""
    found = _PATH.search(message)
    path = found.group(1) if found else ""
    reason = message[: found.start()] if found else message
    field = _FIELD.match(reason)
    if field is None:
        reason = _CHOICE.sub(r"\1 is not supported", _LENGTH.sub(_bound, reason))
        return RequestError(f"{path}: {reason}" if path else reason, param=path or None)
    problem, name = field.groups()
    full_name = f"{path}.{name}" if path else name
    if problem == "missing required":
        return RequestError(f"{full_name} is missing", param=full_name)
    known = [entry.encode_name for entry in msgspec.structs.fields(kind)] if not path else []
    near = get_close_matches(name, known, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return RequestError(f"the parameter {full_name!r} is not supported{hint}", param=full_name)
