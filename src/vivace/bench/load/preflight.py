"""Before a run: is the server there, whose is it, does it know the model and us, does it stream?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from vivace.bench.load.answer import StreamedAnswer
from vivace.bench.load.body import request_body
from vivace.bench.load.client import HttpClient, WholeResponse
from vivace.bench.load.dialect import DIALECTS, EXACT, FINAL, OWNERS, Kind
from vivace.bench.load.exposition import totals
from vivace.bench.load.target import Target
from vivace.bench.traffic.request import TrafficRequest
from vivace.core.errors import TargetError
from vivace.core.nearest_name import nearest_name

TRIAL_LEN = 4  # tokens
TRIAL_TEXT = "One two three"


async def examine(client: HttpClient, target: Target, requests: Sequence[TrafficRequest]) -> Target:
    """The target with its model and kind filled in, after one short request that was answered as it should be.

    `requests` tells which endpoint is meant. Raises `TargetError`.
    """
    try:
        models = await client.fetch("GET", "/v1/models")
        _check_key(models, target)
        names, owner = _models(models)
        kind = OWNERS.get(owner) or await _kind(client)
        model = _model(target, names)
        return await _tried(client, replace(target, kind=kind, model=model), requests)
    except OSError as error:
        raise TargetError(f"no server answers at {target.address}: {_reason(error)}") from None


def _reason(error: OSError) -> str:
    return error.strerror or str(error) or type(error).__name__


def _check_key(response: WholeResponse, target: Target) -> None:
    if response.status not in (401, 403):
        return
    if target.api_key is None:
        raise TargetError(f"{target.address} wants a key ({response.status}): give it with --api-key")
    raise TargetError(f"{target.address} does not know the key ({response.status})")


def _models(response: WholeResponse) -> tuple[list[str], str]:
    """Names and owner; none where the server has no such list."""
    body = response.json()
    entries = body.get("data") if isinstance(body, dict) else None
    models = [entry for entry in entries or () if isinstance(entry, dict) and isinstance(entry.get("id"), str)]
    return [entry["id"] for entry in models], str(models[0].get("owned_by", "")) if models else ""


def _model(target: Target, names: list[str]) -> str | None:
    if target.model is None:
        if not names:
            raise TargetError(f"{target.address} does not say which models it serves: name one with --model-name")
        return names[0]
    if names and target.model not in names:
        served = ", ".join(names[:8])
        hint = nearest_name(target.model, names)
        raise TargetError(f"{target.address} has no model {target.model!r}{hint}: it serves {served}")
    return target.model


async def _kind(client: HttpClient) -> Kind:
    """From what each server alone has: names of metrics, llama.cpp's /props, TGI's /info."""
    metrics = await client.fetch("GET", "/metrics")
    if metrics.status == 200:
        found = totals(metrics.body.decode("utf-8", "replace"))
        for dialect in DIALECTS.values():
            if dialect.metrics_prefix and any(name.startswith(dialect.metrics_prefix) for name in found):
                return dialect.kind
        if isinstance(metrics.json(), list):
            return "trtllm"  # its /metrics is a list of iterations, not Prometheus' text
    for path, field, kind in _MARKS:
        answer = (await client.fetch("GET", path)).json()
        if isinstance(answer, dict) and field in answer:
            return kind
    return "openai"


_MARKS: tuple[tuple[str, str, Kind], ...] = (
    ("/props", "default_generation_settings", "llamacpp"),
    ("/info", "max_total_tokens", "tgi"),
)


async def _tried(client: HttpClient, target: Target, requests: Sequence[TrafficRequest]) -> Target:
    """As its make is known to understand it; else with less: exact lengths, at last only what OpenAI itself has."""
    bare: dict[str, Any] = {**dict.fromkeys(target.dialect.fields), **FINAL}
    known: list[dict[str, Any]] = [] if target.kind == "openai" else [{}]
    for fields in (*known, {**bare, **EXACT}):
        richer = replace(target, extra={**fields, **target.extra})
        try:
            await _try(client, richer, requests)
        except TargetError:
            continue
        return richer
    plain = replace(target, extra={**bare, **target.extra})
    await _try(client, plain, requests)
    return plain


async def _try(client: HttpClient, target: Target, requests: Sequence[TrafficRequest]) -> None:
    path, body = request_body(_trial(requests), target)
    answer = StreamedAnswer()
    await client.exchange(await client.connected(), client.request("POST", path, body), answer)
    outcome, error = answer.outcome()
    if outcome != "ok":
        raise TargetError(f"{target.address}{path} {error}")
    if not all(map(math.isfinite, answer.token_s(0.0))):
        raise TargetError(f"{target.address}{path} answered without tokens")


def _trial(requests: Sequence[TrafficRequest]) -> TrafficRequest:
    """A prompt of the traffic's kind that shares nothing with it."""
    first = requests[0]
    prompt: dict[str, Any] = {"text": TRIAL_TEXT}
    if first.messages is not None:
        prompt = {"messages": ({"role": "user", "content": TRIAL_TEXT},)}
    elif first.token_ids is not None:
        prompt = {"token_ids": first.token_ids[:TRIAL_LEN]}
    return TrafficRequest(index=0, prompt_len=TRIAL_LEN, output_len=TRIAL_LEN, **prompt)
