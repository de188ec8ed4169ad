"""POST /v1/completions."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from vivace.serve.wire.inputs import Text, Tokens, several
from vivace.serve.wire.sampling import ConstrainedFields, Count, Logprobs, TokenId
from vivace.serve.wire.usage import Timings, Usage

MAX_PROMPTS = 128


class CompletionRequest(ConstrainedFields, kw_only=True):
    prompt: Text | Annotated[list[Text | TokenId | Tokens], several(MAX_PROMPTS)]
    max_tokens: Count | None = None
    echo: bool | None = None
    logprobs: Logprobs | None = None
    best_of: int | None = None
    suffix: Annotated[str, Meta(extra_json_schema={"maxLength": 0})] | None = None
    add_special_tokens: bool | None = None


class LegacyLogprobs(Struct):
    """One entry a token. The prompt's first token has no probability."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]


class PromptLogprob(Struct):
    """vLLM's shape of `prompt_logprobs`."""

    logprob: float
    rank: int | None
    decoded_token: str


PromptLogprobs = list[dict[str, PromptLogprob] | None]


class CompletionChoice(Struct):
    index: int
    text: str
    logprobs: LegacyLogprobs | None
    finish_reason: Literal["stop", "length"] | None
    stop_reason: int | str | UnsetType | None = UNSET
    prompt_logprobs: PromptLogprobs | UnsetType = UNSET


class Completion(Struct):
    """A whole answer, or one chunk of a stream."""

    id: str
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: Usage | UnsetType | None = UNSET
    timings: Timings | UnsetType = UNSET
    object: str = "text_completion"
