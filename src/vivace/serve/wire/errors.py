"""What every refusal looks like."""

from __future__ import annotations

from msgspec import Struct


class ErrorDetail(Struct):
    """`param` names the parameter at fault, `code` is for programs."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorResponse(Struct):
    error: ErrorDetail
