"""One error tree.

VivaceError
├── ConfigError            a flag, a config key or a Python argument is wrong
│   └── UnsupportedError   a combination that no code path serves; the message names what would
├── ModelFileError         a model file is broken or hostile; names file, field and offset
├── TemplateError          a chat template failed or left its sandbox budget
├── RequestError           one request is wrong; carries OpenAI's `param`
│   └── ContextLengthError the request can never fit the context or the KV pool
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


class EngineError(VivaceError):
    """An internal invariant does not hold. Always a bug in Vivace."""
