"""Errors as data, so that one raised in the engine's process is raised again in the front."""

from __future__ import annotations

from vivace.core.errors import (
    ConfigError,
    ContextLengthError,
    EngineError,
    ModelFileError,
    RequestError,
    UnsupportedError,
    VivaceError,
)
from vivace.worker.messages import ErrorData

_REQUEST_ERRORS = {one.__name__: one for one in (RequestError, ContextLengthError)}
_CONFIG_ERRORS = {one.__name__: one for one in (ConfigError, UnsupportedError)}


def error_as_data(error: BaseException) -> ErrorData:
    """Any error; those outside our tree become an `EngineError` that names their class."""
    kind = type(error).__name__
    if isinstance(error, ModelFileError):
        return ErrorData(kind, error.reason, path=error.path, field=error.field, offset=error.offset)
    if isinstance(error, RequestError):
        return ErrorData(kind, str(error), param=error.param)
    if isinstance(error, VivaceError):
        return ErrorData(kind, str(error))
    return ErrorData(EngineError.__name__, f"{kind}: {error}")


def error_from_data(data: ErrorData) -> VivaceError:
    """The error again. An unknown kind becomes an `EngineError` with the same message."""
    if data.kind == ModelFileError.__name__:
        return ModelFileError(data.path or "", data.message, field=data.field, offset=data.offset)
    if data.kind in _REQUEST_ERRORS:
        return _REQUEST_ERRORS[data.kind](data.message, param=data.param)
    return _CONFIG_ERRORS.get(data.kind, EngineError)(data.message)
