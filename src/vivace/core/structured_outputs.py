"""What shape a request's text must have: a JSON schema, a regular expression, a choice of texts, or a grammar."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from vivace.core.errors import RequestError

StructuredKind = Literal["json_object", "json_schema", "regex", "choice", "grammar"]

MAX_STRUCTURED_CHARS = 1 << 18  # 2.5 times the longest schema of published tool sets
MAX_CHOICES = 4_096
MAX_THINK_TAG_CHARS = 64


@dataclass(frozen=True, slots=True)
class ThinkTags:
    """Free text that may come before the constrained one: from `start` up to `end`.

    An empty `start`: the prompt has opened it already, so that the text begins inside and must pass `end`.
    """

    start: str
    end: str

    def __post_init__(self) -> None:
        for name, tag in (("start", self.start), ("end", self.end)):
            if not isinstance(tag, str) or len(tag) > MAX_THINK_TAG_CHARS:
                raise RequestError(f"{name} of the think tags has more than {MAX_THINK_TAG_CHARS} characters")
        if not self.end:
            raise RequestError("the think tags need an end")


@dataclass(frozen=True, slots=True)
class StructuredOutputs:
    """A constraint on the text of every continuation. Invalid values raise `RequestError`.

    `kind` says how `text` is read: `json_object` (text is empty: any JSON object), `json_schema` (a schema as JSON),
    `regex` (of the whole text, Rust's syntax, no look-around), `choice` (a JSON array of strings), `grammar`
    (Lark as llguidance reads it, with a rule `start`; or GBNF, `root ::= ...`). `think` allows reasoning before it.
    """

    kind: StructuredKind
    text: str = ""
    think: ThinkTags | None = None

    def __post_init__(self) -> None:
        if self.kind not in get_args(StructuredKind):
            kinds = ", ".join(get_args(StructuredKind))
            raise RequestError(f"structured_outputs must be one of {kinds}, not {self.kind!r}", param=_PARAM)
        if not isinstance(self.text, str) or len(self.text) > MAX_STRUCTURED_CHARS:
            raise RequestError(
                f"the {self.kind} of structured_outputs must be a text of at most {MAX_STRUCTURED_CHARS} characters",
                param=_PARAM,
            )
        if bool(self.text) == (self.kind == "json_object"):
            wanted = "takes no text" if self.text else "needs a text"
            raise RequestError(f"structured_outputs of kind {self.kind} {wanted}", param=_PARAM)

    @classmethod
    def json_schema(cls, schema: Mapping[str, Any] | str) -> StructuredOutputs:
        """JSON that conforms to `schema`, a mapping or JSON text."""
        return cls("json_schema", schema if isinstance(schema, str) else _json(schema))

    @classmethod
    def choice(cls, choices: Sequence[str]) -> StructuredOutputs:
        """Exactly one of the texts."""
        listed = [] if isinstance(choices, str) else list(choices)
        if not 0 < len(listed) <= MAX_CHOICES or not all(isinstance(one, str) and one for one in listed):
            raise RequestError(f"choice needs 1 to {MAX_CHOICES} texts, none of them empty", param=_PARAM)
        return cls("choice", _json(listed))


_PARAM = "structured_outputs"


def _json(value: object) -> str:
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise RequestError(f"structured_outputs holds what JSON cannot: {error}", param=_PARAM) from error
