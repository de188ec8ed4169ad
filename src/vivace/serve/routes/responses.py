"""POST /v1/responses."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from vivace.core.errors import RequestError
from vivace.core.sampling import SamplingParams
from vivace.core.sampling_defaults import SamplingDefaults
from vivace.serve.batch import Batch
from vivace.serve.body import read_body
from vivace.serve.caller import Caller
from vivace.serve.disconnect import run_until_disconnected
from vivace.serve.early_refusal import refuse_early
from vivace.serve.errors import HttpError
from vivace.serve.generation import Order
from vivace.serve.json_answer import json_answer
from vivace.serve.planned_chat import PlannedChat
from vivace.serve.prompt_encoder import Chat
from vivace.serve.response_answer import WITH_LOGPROBS, ResponseAnswer
from vivace.serve.response_input import read_conversation
from vivace.serve.sampling_order import check_shared, make_order, or_default
from vivace.serve.service import Service
from vivace.serve.sse import named_event, open_stream
from vivace.serve.wire.responses import Event, ResponseObject, ResponsesRequest


async def create_response(request: Request) -> Response:
    body = await read_body(request, ResponsesRequest, refuse_early)
    service: Service = request.app.state.service
    service.check_model(body.model)
    caller = Caller.of(request)
    params = _params(body, service.sampling_defaults)
    chat = read_conversation(body)
    order = make_order(caller, body, params, service.request_timeout_s)
    if body.stream:
        return await open_stream(request, _stream(service, caller, body, chat, order))
    return json_answer(await run_until_disconnected(request, _whole(service, caller, body, chat, order)))


async def retrieve_response(request: Request) -> Response:
    raise HttpError(
        404,
        f"there is no response {request.path_params['response'][:64]!r}: none is stored here",
        code="response_not_found",
    )


async def _whole(
    service: Service, caller: Caller, body: ResponsesRequest, chat: Chat, order: Order
) -> ResponseObject:
    with service.open(caller, order, [chat.num_chars]) as batch:
        answer = await _begin(service, caller, body, chat, order, batch)
        answer.push(await batch.collect())
        answer.closing()
        return answer.response


async def _stream(
    service: Service, caller: Caller, body: ResponsesRequest, chat: Chat, order: Order
) -> AsyncGenerator[bytes, None]:
    with service.open(caller, order, [chat.num_chars]) as batch:
        answer = await _begin(service, caller, body, chat, order, batch)
        yield _written(answer.opening())
        async for pieces in batch:
            if events := answer.push(pieces):
                yield _written(events)
        yield _written(answer.closing())


async def _begin(
    service: Service, caller: Caller, body: ResponsesRequest, chat: Chat, order: Order, batch: Batch
) -> ResponseAnswer:
    planned = PlannedChat(service, chat, order.params)
    await batch.start([planned.prepare])
    return ResponseAnswer(service, body, batch, planned.plan, caller.answer_id("resp").replace("-", "_", 1))


def _written(events: Iterable[Event]) -> bytes:
    return b"".join(named_event(event.type, event) for event in events)


def _params(body: ResponsesRequest, defaults: SamplingDefaults) -> SamplingParams:
    check_shared(body)
    if body.previous_response_id is not None:
        raise RequestError(
            "previous_response_id is not supported, as no response is stored: send the whole conversation as input",
            param="previous_response_id",
        )
    with_logprobs = WITH_LOGPROBS in (body.include or ())
    if body.top_logprobs and not with_logprobs:
        raise RequestError(f"top_logprobs needs {WITH_LOGPROBS!r} in include", param="top_logprobs")
    return SamplingParams(
        max_tokens=or_default(body.max_output_tokens, defaults.max_tokens),
        temperature=or_default(body.temperature, defaults.temperature),
        top_p=or_default(body.top_p, defaults.top_p),
        top_k=or_default(body.top_k, defaults.top_k),
        min_p=or_default(body.min_p, defaults.min_p),
        repetition_penalty=or_default(body.repetition_penalty, defaults.repetition_penalty),
        seed=body.seed,
        logprobs=(body.top_logprobs or 0) if with_logprobs else None,
    )


ROUTES = (
    Route("/v1/responses", create_response, methods=["POST"]),
    Route("/v1/responses/{response:path}", retrieve_response, methods=["GET", "POST", "DELETE"]),
)
