"""POST /v1/responses: text and function calls. Nothing is stored, so an answer cannot be referred to later."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from vivace.serve.wire.chat import NewTokens
from vivace.serve.wire.sampling import Logprobs, Name, Request, SharedFields
from vivace.serve.wire.usage import Timings

Status = Literal["in_progress", "completed", "incomplete"]


class InputText(Struct, tag_field="type", tag="input_text", forbid_unknown_fields=True):
    text: str


class EarlierText(Struct, tag_field="type", tag="output_text", forbid_unknown_fields=True):
    text: str
    annotations: list[Any] | None = None
    logprobs: list[Any] | None = None


class EarlierRefusal(Struct, tag_field="type", tag="refusal", forbid_unknown_fields=True):
    refusal: str


class EarlierReasoning(Struct, tag_field="type", tag="reasoning_text", forbid_unknown_fields=True):
    text: str


class EarlierSummary(Struct, tag_field="type", tag="summary_text", forbid_unknown_fields=True):
    text: str


Part = InputText | EarlierText | EarlierRefusal | EarlierReasoning | EarlierSummary


class InputItem(Request, kw_only=True):
    """A message, a call that the model made, its result, or the model's reasoning: `type` says which."""

    type: Literal["message", "function_call", "function_call_output", "reasoning"] | None = None
    id: Name | None = None
    status: Status | None = None
    role: Literal["system", "developer", "user", "assistant"] | None = None
    phase: str | None = None
    content: str | list[Part] | None = None
    summary: list[Part] | None = None
    encrypted_content: None = None
    call_id: Name | None = None
    name: Name | None = None
    arguments: str | None = None
    output: str | list[Part] | None = None


class TextOptions(Request):
    format: dict[str, Any] | None = None
    verbosity: None = None


class ReasoningOptions(Request):
    effort: str | None = None
    summary: None = None


class ResponseStreamOptions(Request):
    include_obfuscation: Literal[False] | None = None


class ResponsesRequest(SharedFields, kw_only=True):
    input: str | Annotated[list[InputItem], Meta(min_length=1)]
    instructions: str | None = None
    max_output_tokens: NewTokens | None = None
    previous_response_id: Annotated[str, Meta(extra_json_schema={"not": {}})] | None = None
    conversation: None = None
    background: Literal[False] | None = None
    truncation: Literal["disabled"] | None = None
    include: list[Literal["message.output_text.logprobs", "reasoning.encrypted_content"]] | None = None
    top_logprobs: Logprobs | None = None
    text: TextOptions | None = None
    reasoning: ReasoningOptions | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    stream_options: ResponseStreamOptions | None = None


class ResponseTopLogprob(Struct):
    token: str
    logprob: float
    bytes: list[int]


class ResponseLogprob(Struct):
    token: str
    logprob: float
    bytes: list[int]
    top_logprobs: list[ResponseTopLogprob]


class OutputText(Struct, tag_field="type", tag="output_text"):
    text: str
    annotations: list[Any]
    logprobs: list[ResponseLogprob]


class ReasoningText(Struct, tag_field="type", tag="reasoning_text"):
    text: str


class MessageItem(Struct, tag_field="type", tag="message"):
    id: str
    status: Status
    content: list[OutputText]
    role: str = "assistant"


class ReasoningItem(Struct, tag_field="type", tag="reasoning"):
    id: str
    status: Status
    content: list[ReasoningText]
    summary: list[Any]


class FunctionCallItem(Struct, tag_field="type", tag="function_call"):
    id: str
    status: Status
    call_id: str
    name: str
    arguments: str


OutputItem = MessageItem | ReasoningItem | FunctionCallItem


class InputTokensDetails(Struct):
    cached_tokens: int
    cache_write_tokens: int = 0


class OutputTokensDetails(Struct):
    reasoning_tokens: int = 0


class ResponseUsage(Struct):
    input_tokens: int
    input_tokens_details: InputTokensDetails
    output_tokens: int
    output_tokens_details: OutputTokensDetails
    total_tokens: int


class IncompleteDetails(Struct):
    reason: Literal["max_output_tokens"]


class ResponseObject(Struct, kw_only=True):
    id: str
    created_at: int
    model: str
    status: Status
    output: list[OutputItem]
    temperature: float
    top_p: float
    instructions: str | None
    max_output_tokens: int | None
    metadata: dict[str, str]
    parallel_tool_calls: bool
    text: dict[str, Any]
    tool_choice: str | dict[str, Any]
    tools: list[dict[str, Any]]
    top_logprobs: int
    user: str | None
    completed_at: int | None = None
    usage: ResponseUsage | None = None
    incomplete_details: IncompleteDetails | None = None
    timings: Timings | None = None
    object: str = "response"
    error: None = None
    background: bool = False
    store: bool = False
    previous_response_id: None = None
    reasoning: None = None
    service_tier: str = "default"
    truncation: str = "disabled"


class ResponseEvent(Struct):
    type: str
    sequence_number: int
    response: ResponseObject


class ItemEvent(Struct):
    type: str
    sequence_number: int
    output_index: int
    item: OutputItem


class PartEvent(Struct):
    type: str
    sequence_number: int
    item_id: str
    output_index: int
    content_index: int
    part: OutputText | ReasoningText


class TextDelta(Struct):
    sequence_number: int
    item_id: str
    output_index: int
    content_index: int
    delta: str
    logprobs: list[ResponseLogprob]
    type: str = "response.output_text.delta"


class TextDone(Struct):
    sequence_number: int
    item_id: str
    output_index: int
    content_index: int
    text: str
    logprobs: list[ResponseLogprob]
    type: str = "response.output_text.done"


class ReasoningDelta(Struct):
    sequence_number: int
    item_id: str
    output_index: int
    content_index: int
    delta: str
    type: str = "response.reasoning_text.delta"


class ReasoningDone(Struct):
    sequence_number: int
    item_id: str
    output_index: int
    content_index: int
    text: str
    type: str = "response.reasoning_text.done"


class ArgumentsDelta(Struct):
    sequence_number: int
    item_id: str
    output_index: int
    delta: str
    type: str = "response.function_call_arguments.delta"


class ArgumentsDone(Struct):
    sequence_number: int
    item_id: str
    output_index: int
    name: str
    arguments: str
    type: str = "response.function_call_arguments.done"


Event = (
    ResponseEvent
    | ItemEvent
    | PartEvent
    | TextDelta
    | TextDone
    | ReasoningDelta
    | ReasoningDone
    | ArgumentsDelta
    | ArgumentsDone
)
