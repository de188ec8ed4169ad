"""Every error as OpenAI's clients read it: `{"error": {"message", "type", "param", "code"}}` and a status."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

import msgspec
from starlette.exceptions import HTTPException
from starlette.responses import Response

from vivace.core.errors import (
    ConfigError,
    ContextLengthError,
    DeadlineError,
    OverloadedError,
    RequestError,
    TemplateError,
    UnavailableError,
)

MAX_MESSAGE_CHARS = 1_000  # a message may quote what the client sent, which may be megabytes
INTERNAL_MESSAGE = "The server failed on this request. Its log says more under the id in X-Request-Id."

logger = logging.getLogger("vivace.serve")


class HttpError(HTTPException):
    """A refusal that is HTTP's own business (401, 404, 405, 408, 413, 415, 431); `code` and `param` as OpenAI's."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(status, message, headers)
        self.code = code
        self.param = param


@dataclass(frozen=True, slots=True)
class _Answer:
    status: int
    type: str
    message: str
    code: str | None = None
    param: str | None = None
    headers: dict[str, str] = field(default_factory=dict)


_HTTP_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    429: "rate_limit_error",
    503: "unavailable_error",
    504: "timeout_error",
}


def error_response(error: BaseException, request_id: str) -> Response:
    """The whole answer to a request that failed before its first byte was sent. Unknown errors are logged here."""
    answer = _answer(error)
    return Response(
        msgspec.json.encode(_body(answer)),
        status_code=answer.status,
        headers={"X-Request-Id": request_id, **answer.headers},
        media_type="application/json",
    )


def error_body(error: BaseException) -> dict[str, Any]:
    """The same body, for the error event of a stream that has begun. Unknown errors are logged here."""
    return _body(_answer(error))


def _body(answer: _Answer) -> dict[str, Any]:
    message = answer.message.encode("utf-8", "backslashreplace").decode()
    if len(message) > MAX_MESSAGE_CHARS:
        message = message[:MAX_MESSAGE_CHARS] + " …"
    return {"error": {"message": message, "type": answer.type, "param": answer.param, "code": answer.code}}


def _answer(error: BaseException) -> _Answer:
    known = _known_answer(error)
    if known is not None:
        return known
    logger.error("request failed: %r", error, exc_info=error)
    return _Answer(500, "server_error", INTERNAL_MESSAGE, "internal_error")


def _known_answer(error: BaseException) -> _Answer | None:
    """None for what nobody meant to raise."""
    text = str(error)
    match error:
        case ContextLengthError():
            return _Answer(400, "invalid_request_error", text, "context_length_exceeded", error.param)
        case RequestError():
            return _Answer(400, "invalid_request_error", text, "invalid_value", error.param)
        case TemplateError():
            return _Answer(400, "invalid_request_error", text, "template_error", "messages")
        case ConfigError():  # a parameter that this engine, as it was configured, does not serve
            return _Answer(400, "invalid_request_error", text, "unsupported")
        case OverloadedError():
            return _Answer(429, "rate_limit_error", text, "overloaded", headers=_retry_after(error.retry_after_s))
        case UnavailableError():
            return _Answer(503, "unavailable_error", text, "unavailable", headers=_retry_after(error.retry_after_s))
        case DeadlineError():
            return _Answer(504, "timeout_error", text, "deadline_exceeded")
        case HTTPException():
            return _http_answer(error)
    return None


def _http_answer(error: HTTPException) -> _Answer:
    code = getattr(error, "code", None) or HTTPStatus(error.status_code).phrase.lower().replace(" ", "_")
    kind = _HTTP_TYPES.get(error.status_code, "invalid_request_error")
    param = getattr(error, "param", None)
    return _Answer(error.status_code, kind, error.detail, code, param, dict(error.headers or {}))


def _retry_after(seconds: float) -> dict[str, str]:
    return {"Retry-After": str(max(1, math.ceil(seconds)))}
