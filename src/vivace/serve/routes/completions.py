"""POST /v1/completions."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from functools import partial
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from vivace.core.errors import RequestError
from vivace.core.sampling import SamplingParams
from vivace.core.sampling_defaults import SamplingDefaults
from vivace.serve.body import read_body
from vivace.serve.caller import Caller
from vivace.serve.completion_answer import CompletionAnswer
from vivace.serve.disconnect import run_until_disconnected
from vivace.serve.early_refusal import refuse_early
from vivace.serve.generation import Order, Prepared
from vivace.serve.json_answer import json_answer
from vivace.serve.response_format import constraint_of
from vivace.serve.sampling_order import make_order, sampling_params
from vivace.serve.service import Service
from vivace.serve.sse import DONE, data_event, open_stream
from vivace.serve.wire.completions import MAX_PROMPTS, Completion, CompletionRequest

DEFAULT_MAX_TOKENS = 16
MAX_CHOICES = 1_024
BYTES_PER_ID = 4  # what a token id counts at the door, where text counts its bytes

Prompt = str | list[int]


async def create_completion(request: Request) -> Response:
    body = await read_body(request, CompletionRequest, refuse_early)
    service: Service = request.app.state.service
    service.check_model(body.model)
    caller = Caller.of(request)
    prompts = read_prompts(body.prompt, service.engine.info.vocab_size)
    params = _params(body, service.sampling_defaults)
    if len(prompts) * params.n > MAX_CHOICES:
        raise RequestError(
            f"{len(prompts)} prompts with n = {params.n} make more than {MAX_CHOICES} choices", param="n"
        )
    order = make_order(caller, body, params, service.request_timeout_s)
    if body.stream:
        return await open_stream(request, _stream(service, caller, body, prompts, order))
    return json_answer(await run_until_disconnected(request, _whole(service, caller, body, prompts, order)))


async def _whole(
    service: Service, caller: Caller, body: CompletionRequest, prompts: list[Prompt], order: Order
) -> Completion:
    with service.open(caller, order, [_num_bytes(prompt) for prompt in prompts]) as batch:
        await batch.start(_preparations(service, body, prompts, order))
        answer = CompletionAnswer(service, body, batch, prompts, caller.answer_id("cmpl"))
        return answer.whole(await batch.collect())


async def _stream(
    service: Service, caller: Caller, body: CompletionRequest, prompts: list[Prompt], order: Order
) -> AsyncGenerator[bytes, None]:
    with service.open(caller, order, [_num_bytes(prompt) for prompt in prompts]) as batch:
        await batch.start(_preparations(service, body, prompts, order))
        answer = CompletionAnswer(service, body, batch, prompts, caller.answer_id("cmpl"))
        yield b""  # the status goes out, however long the first token takes
        async for pieces in batch:
            yield b"".join(map(data_event, answer.chunk(pieces)))
        last = answer.last_chunk()
        yield DONE if last is None else data_event(last) + DONE


def _preparations(
    service: Service, body: CompletionRequest, prompts: Sequence[Prompt], order: Order
) -> list[Callable[[], Awaitable[Prepared]]]:
    return [partial(_prepare, service, body, prompt, order.params) for prompt in prompts]


async def _prepare(service: Service, body: CompletionRequest, prompt: Prompt, params: SamplingParams) -> Prepared:
    if params.structured_outputs is not None:
        try:
            await service.compiler.check(params.structured_outputs)
        except RequestError as error:
            constraint = constraint_of(body)
            raise RequestError(str(error), param=None if constraint is None else constraint.param) from None
    if isinstance(prompt, str):
        ids = await service.encoder.encode(prompt, add_special=body.add_special_tokens is not False)
        return Prepared(ids, params)
    return Prepared(prompt, params)


def _params(body: CompletionRequest, defaults: SamplingDefaults) -> SamplingParams:
    if body.suffix:
        raise RequestError("suffix is not supported: no text is inserted before it", param="suffix")
    if body.best_of is not None and body.best_of != (body.n or 1):
        raise RequestError("best_of is served where it equals n: nothing is ranked", param="best_of")
    scored = body.logprobs if body.echo else None
    constraint = constraint_of(body)
    return sampling_params(
        body,
        defaults,
        max_tokens=DEFAULT_MAX_TOKENS if body.max_tokens is None else body.max_tokens,
        logprobs=body.logprobs,
        prompt_logprobs=max((k for k in (body.prompt_logprobs, scored) if k is not None), default=None),
        structured_outputs=None if constraint is None else constraint.outputs,
    )


def read_prompts(prompt: str | list[Any], vocab_size: int) -> list[Prompt]:
    """One prompt or several, as text or ids. Raises `RequestError`."""
    kinds = set(map(type, prompt))
    if isinstance(prompt, str) or kinds <= {int}:
        prompts: list[Prompt] = [prompt]
    elif kinds in ({str}, {list}):
        prompts = prompt
    else:
        raise RequestError("prompt mixes text, token ids and lists of them: use one kind", param="prompt")
    if len(prompts) > MAX_PROMPTS:
        raise RequestError(f"prompt has more than {MAX_PROMPTS} prompts", param="prompt")
    for one in prompts:
        if not one:
            raise RequestError("the prompt is empty: at least one token is needed", param="prompt")
        if not isinstance(one, str) and (min(one) < 0 or max(one) >= vocab_size):
            raise RequestError(f"prompt token ids must be in [0, {vocab_size})", param="prompt")
    return prompts


def _num_bytes(prompt: Prompt) -> int:
    return len(prompt.encode()) if isinstance(prompt, str) else BYTES_PER_ID * len(prompt)


ROUTES = (Route("/v1/completions", create_completion, methods=["POST"]),)
