"""A request of the traffic as the body that a server understands."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from vivace.bench.load.target import PATHS, Endpoint, Target
from vivace.bench.traffic.request import TrafficRequest
from vivace.core.errors import ConfigError


def endpoint_of(request: TrafficRequest, target: Target) -> Endpoint:
    """The one asked for, else the one that the prompt is made for."""
    return target.endpoint or ("completions" if request.messages is None else "chat")


def request_body(request: TrafficRequest, target: Target) -> tuple[str, dict[str, Any]]:
    """Path and body. Raises `ConfigError` for a prompt that the server cannot take."""
    endpoint = endpoint_of(request, target)
    body: dict[str, Any] = {
        **_prompt(request, endpoint, target),
        "max_tokens": request.output_len,
        "temperature": 0,
        "stream": True,
        **target.dialect.fields,
        **target.extra,
    }
    if target.model is not None:
        body["model"] = target.model
    return PATHS[endpoint], {name: value for name, value in body.items() if value is not None}


def _prompt(request: TrafficRequest, endpoint: Endpoint, target: Target) -> dict[str, Any]:
    if endpoint == "chat":
        if request.token_ids is not None:
            raise ConfigError("token ids cannot be sent as a chat: use the completions endpoint, or traffic of text")
        return {"messages": request.messages or ({"role": "user", "content": request.text or ""},)}
    if request.token_ids is not None:
        if not target.dialect.takes_token_ids:
            raise ConfigError(f"{target.dialect.title} takes no token ids as a prompt: use traffic of text")
        return {"prompt": request.token_ids}
    if request.messages is not None:
        return {"prompt": "\n\n".join(f"{one['role']}: {one['content']}" for one in request.messages)}
    return {"prompt": request.text or ""}


def with_answer(request: TrafficRequest, before: TrafficRequest, answer: str) -> TrafficRequest:
    """The turn after `before`, its last message but one (the assistant's) being what came.

    Earlier turns are taken from `before` as it was sent, so a conversation goes on with the words that its server has
    in its prefix cache. Prompts that are no conversation are as they were.
    """
    messages = request.messages
    if messages is None or len(messages) < 2 or messages[-2]["role"] != "assistant":
        return request
    sent = before.messages or ()
    earlier = sent if len(sent) == len(messages) - 2 else messages[:-2]
    return replace(request, messages=(*earlier, {**messages[-2], "content": answer}, messages[-1]))
