"""Text and messages to token ids, beside the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar

from vivace.core.errors import RequestError
from vivace.engine.chat_template import settable_variables
from vivace.engine.tokenizer import Tokenizer
from vivace.serve.response_format import Constraint
from vivace.serve.tools.plan import ChatPlan, chat_plan

T = TypeVar("T")

INLINE_CHARS = 1_024  # 0.5 ms at most; the way to a thread and back costs 0.1 ms
LONG_CHARS = 64 * 1024  # 30 ms; a text of 4 MiB takes up to 4 s, and 600 MB while it lasts
SLICE_IDS = 8_192  # 2 ms to decode
CHARS_PER_MESSAGE, CHARS_PER_TOOL = 128, 4_096  # what else takes as long as a message or a tool in a template


@dataclass(frozen=True, slots=True)
class Chat:
    """A conversation as a request defines it. `num_chars`: about how long it is."""

    messages: Sequence[Mapping[str, Any]]
    num_chars: int
    tools: Sequence[Mapping[str, Any]] | None = None
    tool_choice: str | Mapping[str, Any] | None = None
    parallel_tool_calls: bool = True
    constraint: Constraint | None = None
    variables: Mapping[str, Any] = field(default_factory=dict)  # for the template
    add_generation_prompt: bool = True
    continue_final_message: bool = False


class PromptEncoder:
    """Encodes in two threads: one for long texts, so that short ones never wait behind them.

    Long texts are encoded without the GIL (see `Tokenizer.encode`), one at a time, and not at all where their length
    alone tells that they cannot fit the context.
    """

    def __init__(self, tokenizer: Tokenizer | None, max_model_len: int) -> None:
        self._tokenizer = tokenizer
        self._max_tokens = max_model_len
        self._short = ThreadPoolExecutor(1, thread_name_prefix="vivace-encode")
        self._long = ThreadPoolExecutor(1, thread_name_prefix="vivace-encode-long")
        if tokenizer is not None:
            _ = tokenizer.piece_bound  # up to 0.2 s for a large vocabulary: now, not at the first long text

    @property
    def tokenizer(self) -> Tokenizer:
        """Raises `RequestError` where the model came without one."""
        if self._tokenizer is None:
            raise RequestError("this model has no tokenizer: pass prompts as token ids", param="prompt")
        return self._tokenizer

    async def encode(self, text: str, *, add_special: bool = True) -> list[int]:
        """Ids of plain text; names of control tokens in it are only text. Raises `RequestError`."""
        tokenizer = self.tokenizer
        if len(text) <= INLINE_CHARS:
            return tokenizer.encode(text, add_special=add_special)
        return await self._run(
            len(text), lambda: tokenizer.encode(text, add_special=add_special, max_tokens=self._max_tokens)
        )

    async def plan_chat(self, chat: Chat) -> ChatPlan:
        """A conversation's prompt and what follows from its tools. Raises `RequestError` and `TemplateError`."""
        tokenizer = self.tokenizer
        weight = chat.num_chars + CHARS_PER_MESSAGE * len(chat.messages) + CHARS_PER_TOOL * len(chat.tools or ())
        return await self._run(weight, lambda: _plan(tokenizer, chat, self._max_tokens))

    async def decode(self, token_ids: list[int], vocab_size: int) -> str:
        """Text of ids, control tokens by their names. Raises `RequestError` for ids outside the vocabulary."""
        tokenizer = self.tokenizer
        return await self._run(len(token_ids), lambda: _decode(tokenizer, token_ids, vocab_size))

    async def _run(self, num_chars: int, work: Callable[[], T]) -> T:
        pool = self._long if num_chars > LONG_CHARS else self._short
        return await asyncio.get_running_loop().run_in_executor(pool, work)

    def close(self) -> None:
        for pool in (self._short, self._long):
            pool.shutdown(wait=False, cancel_futures=True)


def _decode(tokenizer: Tokenizer, token_ids: list[int], vocab_size: int) -> str:
    """Slice by slice: one call for a million ids would hold the GIL, and with it the event loop, for 0.3 s."""
    stream = tokenizer.stream(skip_special=False, continuation=False)
    parts: list[str] = []
    for start in range(0, len(token_ids), SLICE_IDS):
        ids = token_ids[start : start + SLICE_IDS]
        if max(ids) >= vocab_size:
            raise RequestError(f"token ids must be in [0, {vocab_size})", param="tokens")
        parts.append(stream.push(ids))
    return "".join(parts) + stream.finish()


def _plan(tokenizer: Tokenizer, chat: Chat, max_tokens: int) -> ChatPlan:
    _check_variables(tokenizer.chat_template, chat.variables)
    return chat_plan(
        tokenizer,
        chat.messages,
        tools=chat.tools,
        tool_choice=chat.tool_choice,
        parallel_tool_calls=chat.parallel_tool_calls,
        constraint=chat.constraint,
        template_variables=chat.variables,
        add_generation_prompt=chat.add_generation_prompt,
        continue_final_message=chat.continue_final_message,
        max_tokens=max_tokens,
    )


def _check_variables(template: str | None, variables: Mapping[str, Any]) -> None:
    settable = settable_variables(template) if template and variables else frozenset()
    for name in variables:
        if name not in settable:
            known = ", ".join(sorted(settable)) or "none"
            raise RequestError(
                f"the chat template lets no request set {name!r}; it lets them set: {known}",
                param=f"chat_template_kwargs.{name}",
            )
