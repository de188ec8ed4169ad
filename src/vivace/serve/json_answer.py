"""A whole answer."""

from __future__ import annotations

import msgspec
from starlette.responses import Response

_ENCODER = msgspec.json.Encoder()


def json_answer(value: msgspec.Struct) -> Response:
    return Response(_ENCODER.encode(value), media_type="application/json")
