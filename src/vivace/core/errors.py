"""One error tree.

VivaceError
├── ConfigError            a flag, a config key or a Python argument is wrong
│   └── UnsupportedError   a combination that no code path serves; the message names what would
├── ModelFileError         a model file is broken or hostile; names file, field and offset
├── TemplateError          a chat template failed or left its sandbox budget
├── RequestError           one request is wrong; carries OpenAI's `param`
│   └── ContextLengthError the request can never fit the context or the KV pool
├── OverloadedError        the request is right, but too many others wait; carries when to come again
├── UnavailableError       nothing is served now: the model is loading or the server is draining
├── DeadlineError          the request's time was over before its answer was
├── TargetError            a server under measurement is not there, refuses us, or speaks no OpenAI
└── EngineError            the engine broke a promise (a bug); never the user's fault
"""

from __future__ import annotations

from os import PathLike


class VivaceError(Exception):
    """Base of every error that Vivace raises on purpose. The message says what to do."""


class ConfigError(VivaceError):
    """A configuration value is wrong or two values exclude each other."""


class UnsupportedError(ConfigError):
    """The combination is understood but no implementation serves it."""


class ModelFileError(VivaceError):
    """A model file is broken, truncated, hostile or of an unknown kind.

    `path` is the file, `field` the key or tensor at fault, `offset` the byte position where known.
    """

    def __init__(
        self, path: str | PathLike[str], reason: str, *, field: str | None = None, offset: int | None = None
    ) -> None:
        self.path = str(path)
        self.reason = reason
        self.field = field
        self.offset = offset
        where = "".join(
            (
                f", field {field!r}" if field is not None else "",
                f", offset {offset}" if offset is not None else "",
            )
        )
        super().__init__(f"{self.path}{where}: {reason}")


class TemplateError(VivaceError):
    """A chat template is invalid, was refused by the sandbox, or ran over its budget."""


class RequestError(VivaceError):
    """One request is wrong. `param` is the name of the parameter at fault, as OpenAI's error body gives it."""

    def __init__(self, message: str, *, param: str | None = None) -> None:
        self.param = param
        super().__init__(message)


class ContextLengthError(RequestError):
    """The request can never fit: longer than the context window or than the whole KV pool."""


class OverloadedError(VivaceError):
    """Too much is queued: the request was not begun. Come again in `retry_after_s` seconds."""

    def __init__(self, message: str, *, retry_after_s: float) -> None:
        self.retry_after_s = retry_after_s
        super().__init__(message)


class UnavailableError(VivaceError):
    """Nothing is served now, for a reason that will pass. Come again in `retry_after_s` seconds."""

    def __init__(self, message: str, *, retry_after_s: float) -> None:
        self.retry_after_s = retry_after_s
        super().__init__(message)


class DeadlineError(VivaceError):
    """The time that the request or the server allows was over; what was running for it has been ended."""


class TargetError(VivaceError):
    """A server that is to be measured is not there, refuses the key or the model, or does not answer as OpenAI's."""


class EngineError(VivaceError):
    """An internal invariant does not hold. Always a bug in Vivace."""
