"""POST /v1/chat/completions."""

from __future__ import annotations

from collections.abc import AsyncGenerator

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from vivace.core.errors import RequestError
from vivace.core.sampling import SamplingParams
from vivace.core.sampling_defaults import SamplingDefaults
from vivace.serve.batch import Batch
from vivace.serve.body import read_body
from vivace.serve.caller import Caller
from vivace.serve.chat_answer import ChatAnswer
from vivace.serve.disconnect import run_until_disconnected
from vivace.serve.early_refusal import refuse_early
from vivace.serve.generation import Order
from vivace.serve.json_answer import json_answer
from vivace.serve.planned_chat import PlannedChat
from vivace.serve.prompt_encoder import Chat
from vivace.serve.response_format import constraint_of
from vivace.serve.sampling_order import make_order, sampling_params
from vivace.serve.service import Service
from vivace.serve.sse import DONE, data_event, open_stream
from vivace.serve.wire.chat import ChatCompletion, ChatRequest
from vivace.serve.wire.messages import num_chars, template_messages


async def create_chat_completion(request: Request) -> Response:
    body = await read_body(request, ChatRequest, refuse_early)
    service: Service = request.app.state.service
    service.check_model(body.model)
    caller = Caller.of(request)
    chat = read_chat(body)
    order = make_order(caller, body, _params(body, service.sampling_defaults), service.request_timeout_s)
    if body.stream:
        return await open_stream(request, _stream(service, caller, body, chat, order))
    return json_answer(await run_until_disconnected(request, _whole(service, caller, body, chat, order)))


async def _whole(service: Service, caller: Caller, body: ChatRequest, chat: Chat, order: Order) -> ChatCompletion:
    with service.open(caller, order, [chat.num_chars]) as batch:
        answer = await _begin(service, caller, body, chat, order, batch)
        return answer.whole(await batch.collect())


async def _stream(
    service: Service, caller: Caller, body: ChatRequest, chat: Chat, order: Order
) -> AsyncGenerator[bytes, None]:
    with service.open(caller, order, [chat.num_chars]) as batch:
        answer = await _begin(service, caller, body, chat, order, batch)
        yield b"".join(map(data_event, answer.opening()))
        async for pieces in batch:
            if chunks := answer.chunks(pieces):
                yield b"".join(map(data_event, chunks))
        last = answer.last_chunk()
        yield DONE if last is None else data_event(last) + DONE


async def _begin(
    service: Service, caller: Caller, body: ChatRequest, chat: Chat, order: Order, batch: Batch
) -> ChatAnswer:
    planned = PlannedChat(service, chat, order.params)
    await batch.start([planned.prepare])
    return ChatAnswer(service, body, batch, planned.plan, caller.answer_id("chatcmpl"))


def read_chat(body: ChatRequest) -> Chat:
    """The conversation of a request. Raises `RequestError`."""
    if body.continue_final_message and body.add_generation_prompt:
        raise RequestError(
            "continue_final_message and add_generation_prompt exclude each other", param="continue_final_message"
        )
    variables = dict(body.chat_template_kwargs or {})
    if body.reasoning_effort is not None:
        variables["reasoning_effort"] = body.reasoning_effort
    return Chat(
        template_messages(body.messages),
        num_chars(body.messages),
        tools=body.tools,
        tool_choice=body.tool_choice,
        parallel_tool_calls=body.parallel_tool_calls is not False,
        constraint=constraint_of(body),
        variables=variables,
        add_generation_prompt=body.add_generation_prompt is not False and not body.continue_final_message,
        continue_final_message=bool(body.continue_final_message),
    )


def _params(body: ChatRequest, defaults: SamplingDefaults) -> SamplingParams:
    limits = {limit for limit in (body.max_tokens, body.max_completion_tokens) if limit is not None}
    if len(limits) > 1:
        raise RequestError("max_tokens and max_completion_tokens differ: give one of them", param="max_tokens")
    if body.top_logprobs is not None and not body.logprobs:
        raise RequestError("top_logprobs needs logprobs: true", param="top_logprobs")
    return sampling_params(
        body,
        defaults,
        max_tokens=limits.pop() if limits else defaults.max_tokens,
        logprobs=(body.top_logprobs or 0) if body.logprobs else None,
        prompt_logprobs=body.prompt_logprobs,
    )


ROUTES = (Route("/v1/chat/completions", create_chat_completion, methods=["POST"]),)
