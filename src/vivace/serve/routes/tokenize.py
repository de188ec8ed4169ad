"""POST /tokenize and /detokenize."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from vivace.core.errors import RequestError
from vivace.serve.body import read_body
from vivace.serve.caller import Caller
from vivace.serve.disconnect import run_until_disconnected
from vivace.serve.json_answer import json_answer
from vivace.serve.prompt_encoder import Chat
from vivace.serve.service import Service
from vivace.serve.wire.messages import num_chars, template_messages
from vivace.serve.wire.tokenize import Detokenized, DetokenizeRequest, Tokenized, TokenizeRequest


async def tokenize(request: Request) -> Response:
    """At the door it counts as a request without tokens to generate: encoding takes time, too."""
    body = await read_body(request, TokenizeRequest)
    service: Service = request.app.state.service
    service.check_model(body.model)
    if (body.prompt is None) == (body.messages is None):
        raise RequestError("give either prompt or messages", param="prompt" if body.messages is None else "messages")
    size = len(body.prompt) if body.prompt is not None else num_chars(body.messages or [])
    with service.admission.enter(key=Caller.of(request).key, num_bytes=size, max_tokens=0):
        ids = await run_until_disconnected(request, _encode(service, body, size))
    answer = Tokenized(len(ids), service.engine.info.max_model_len, ids)
    if body.return_token_strs:
        answer.token_strs = [service.logprobs.token_name(token_id) for token_id in ids]
    return json_answer(answer)


async def _encode(service: Service, body: TokenizeRequest, size: int) -> list[int]:
    if body.messages is None:
        assert body.prompt is not None
        return await service.encoder.encode(body.prompt, add_special=body.add_special_tokens is not False)
    plan = await service.encoder.plan_chat(
        Chat(
            template_messages(body.messages),
            num_chars=size,
            tools=body.tools,
            variables=body.chat_template_kwargs or {},
            add_generation_prompt=body.add_generation_prompt is not False and not body.continue_final_message,
            continue_final_message=bool(body.continue_final_message),
        )
    )
    return plan.prompt_ids


async def detokenize(request: Request) -> Response:
    body = await read_body(request, DetokenizeRequest)
    service: Service = request.app.state.service
    service.check_model(body.model)
    return json_answer(Detokenized(await service.encoder.decode(body.tokens, service.engine.info.vocab_size)))


ROUTES = (
    Route("/tokenize", tokenize, methods=["POST"]),
    Route("/detokenize", detokenize, methods=["POST"]),
)
