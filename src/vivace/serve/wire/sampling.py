"""What every generating route takes: OpenAI's sampling parameters and the extras of vLLM, with their bounds."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from vivace.core.sampling import MAX_LOGIT_BIAS, MAX_LOGPROBS, MAX_N, MAX_STOP_CHARS, MAX_STOP_STRINGS
from vivace.core.structured_outputs import MAX_CHOICES

MAX_TIMEOUT_S = 86_400.0
MAX_NAME_CHARS = 512

Count = Annotated[int, Meta(ge=0, le=2**31 - 1)]
Logprobs = Annotated[int, Meta(ge=0, le=MAX_LOGPROBS)]
TokenId = Annotated[int, Meta(ge=0, le=2**31 - 1, extra_json_schema={"format": "token-id"})]
Temperature = Annotated[float, Meta(ge=0.0, le=100.0)]
TopP = Annotated[float, Meta(gt=0.0, le=1.0)]
Seed = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
Timeout = Annotated[float, Meta(gt=0.0, le=MAX_TIMEOUT_S)]
Priority = Annotated[int, Meta(ge=-(2**31), le=2**31 - 1)]
Name = Annotated[str, Meta(max_length=MAX_NAME_CHARS)]
Text = Annotated[str, Meta(min_length=1)]
StopString = Annotated[str, Meta(min_length=1, max_length=MAX_STOP_CHARS)]
LogitBias = Annotated[
    dict[Annotated[str, Meta(pattern=r"^[0-9]{1,10}$")], Annotated[float, Meta(ge=-100.0, le=100.0)]],
    Meta(max_length=MAX_LOGIT_BIAS),
]


class Request(Struct, kw_only=True, forbid_unknown_fields=True):
    """A body of which every field is known; null means: as if it were not there."""


class StreamOptions(Request):
    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None


class SharedFields(Request, kw_only=True):
    """Fields of all generating routes. `user`, `metadata` and the like change nothing and are harmless."""

    model: Name | None = None
    temperature: Temperature | None = None
    top_p: TopP | None = None
    stream: bool | None = None
    user: Name | None = None
    metadata: dict[str, str] | None = None
    store: Annotated[bool, Meta(extra_json_schema={"const": False})] | None = None
    service_tier: Literal["auto", "default"] | None = None
    safety_identifier: Name | None = None
    prompt_cache_key: Name | None = None
    # beyond OpenAI's
    top_k: Annotated[int, Meta(ge=-1, le=2**31 - 1)] | None = None
    min_p: Annotated[float, Meta(ge=0.0, le=1.0)] | None = None
    repetition_penalty: Annotated[float, Meta(ge=0.01, le=100.0)] | None = None
    seed: Seed | None = None
    priority: Priority | None = None
    cache_salt: Name | None = None
    timeout: Timeout | None = None
    timings: bool | None = None


class SamplingFields(SharedFields, kw_only=True):
    """Fields of completions and chat completions."""

    n: Annotated[int, Meta(ge=1, le=MAX_N)] | None = None
    presence_penalty: Annotated[float, Meta(ge=-2.0, le=2.0)] | None = None
    frequency_penalty: Annotated[float, Meta(ge=-2.0, le=2.0)] | None = None
    logit_bias: LogitBias | None = None
    stop: StopString | Annotated[list[StopString], Meta(max_length=MAX_STOP_STRINGS)] | None = None
    stream_options: StreamOptions | None = None
    # beyond OpenAI's
    min_tokens: Count | None = None
    stop_token_ids: Annotated[list[TokenId], Meta(max_length=256)] | None = None
    ignore_eos: bool | None = None
    include_stop_str_in_output: bool | None = None
    skip_special_tokens: bool | None = None
    prompt_logprobs: Logprobs | None = None


class ConstrainedFields(SamplingFields, kw_only=True):
    """Fields that say what the text must be: at most one of them. `guided_*` are vLLM's earlier names."""

    response_format: dict[str, Any] | None = None
    structured_outputs: dict[str, Any] | None = None
    guided_json: dict[str, Any] | Text | None = None
    guided_regex: Text | None = None
    guided_choice: Annotated[list[Text], Meta(min_length=1, max_length=MAX_CHOICES)] | None = None
    guided_grammar: Text | None = None
