"""What servers of OpenAI's make send in a stream, as far as a measurement looks at it; the rest is skipped."""

from __future__ import annotations

from typing import Any

from msgspec import Struct


class Delta(Struct):
    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    tool_calls: list[Any] | None = None


class Choice(Struct):
    text: str | None = None
    delta: Delta | None = None
    token_ids: list[int] | None = None  # vLLM's `return_token_ids`
    finish_reason: Any = None  # with the last token; until then null, or empty

    @property
    def num_characters(self) -> int:
        """Of text, of reasoning, of calls: whatever a token may have become."""
        num = len(self.text or "")
        if self.delta is not None:
            delta = self.delta
            num += len(delta.content or "") + len(delta.reasoning_content or "") + len(delta.reasoning or "")
            num += len(delta.tool_calls or ())
        return num


class PromptTokensDetails(Struct):
    cached_tokens: int | None = None


class Usage(Struct):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_tokens_details: PromptTokensDetails | None = None


class Timings(Struct):
    """llama.cpp's; `queue_ms` is Vivace's."""

    predicted_n: int | None = None
    cache_n: int | None = None
    queue_ms: float | None = None


class Chunk(Struct):
    choices: list[Choice] | None = None
    usage: Usage | None = None
    timings: Timings | None = None
    error: Any = None


class ErrorBody(Struct):
    """OpenAI's `{"error": {"message", "type", "code"}}`, TGI's `{"error": "…", "error_type"}`, vLLM's flat one."""

    error: Any = None
    message: str | None = None
    detail: Any = None
