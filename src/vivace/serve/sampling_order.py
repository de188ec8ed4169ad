"""From a body's fields to what the engine is asked for."""

from __future__ import annotations

import hashlib
from typing import TypeVar

from vivace.core.errors import RequestError
from vivace.core.sampling import SamplingParams
from vivace.core.sampling_defaults import SamplingDefaults
from vivace.core.structured_outputs import StructuredOutputs
from vivace.serve.caller import Caller
from vivace.serve.generation import Order
from vivace.serve.wire.sampling import SamplingFields, SharedFields

T = TypeVar("T")


def sampling_params(
    body: SamplingFields,
    defaults: SamplingDefaults,
    *,
    max_tokens: int | None,
    logprobs: int | None,
    prompt_logprobs: int | None,
    structured_outputs: StructuredOutputs | None = None,
) -> SamplingParams:
    """Raises `RequestError` for values that exclude each other; single values were checked with the body."""
    check_shared(body)
    if body.stream_options is not None and not body.stream:
        raise RequestError("stream_options needs stream: true", param="stream_options")
    return SamplingParams(
        n=or_default(body.n, 1),
        max_tokens=max_tokens,
        min_tokens=or_default(body.min_tokens, 0),
        temperature=or_default(body.temperature, defaults.temperature),
        top_k=or_default(body.top_k, defaults.top_k),
        top_p=or_default(body.top_p, defaults.top_p),
        min_p=or_default(body.min_p, defaults.min_p),
        repetition_penalty=or_default(body.repetition_penalty, defaults.repetition_penalty),
        presence_penalty=or_default(body.presence_penalty, 0.0),
        frequency_penalty=or_default(body.frequency_penalty, 0.0),
        logit_bias={int(token): bias for token, bias in (body.logit_bias or {}).items()},
        stop=() if body.stop is None else (body.stop,) if isinstance(body.stop, str) else tuple(body.stop),
        stop_token_ids=tuple(body.stop_token_ids or ()),
        include_stop_str_in_output=bool(body.include_stop_str_in_output),
        ignore_eos=bool(body.ignore_eos),
        seed=body.seed,
        logprobs=logprobs,
        prompt_logprobs=prompt_logprobs,
        skip_special_tokens=or_default(body.skip_special_tokens, True),
        structured_outputs=structured_outputs,
    )


def check_shared(body: SharedFields) -> None:
    """Raises `RequestError` for what is understood but not served."""
    if body.store:
        raise RequestError("nothing is stored here: leave store out, or send false", param="store")


def make_order(caller: Caller, body: SharedFields, params: SamplingParams, default_timeout_s: float | None) -> Order:
    """What each prompt of the request is generated with."""
    limits_s = [limit_s for limit_s in (body.timeout, default_timeout_s) if limit_s is not None]
    return Order(
        params,
        or_default(body.priority, 0),
        _cache_salt(caller.salt, body.cache_salt),
        caller.arrival + min(limits_s) if limits_s else None,
    )


def _cache_salt(key_salt: bytes, salt: str | None) -> bytes:
    """A client's salt parts its own prompts further; it never reaches those of another key."""
    if not salt:
        return key_salt
    return hashlib.sha256(len(key_salt).to_bytes(2) + key_salt + salt.encode()).digest()


def or_default(value: T | None, default: T) -> T:
    """What the request says, else the default."""
    return default if value is None else value
