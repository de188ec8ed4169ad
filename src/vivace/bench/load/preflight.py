"""Before a run: does the server know us and the model, and does it stream?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from vivace.bench.load.answer import StreamedAnswer
from vivace.bench.load.body import request_body
from vivace.bench.load.client import HttpClient
from vivace.bench.load.description import describe
from vivace.bench.load.dialect import EXACT, FINAL
from vivace.bench.load.target import Target
from vivace.bench.traffic.request import TrafficRequest
from vivace.core.errors import TargetError

TRIAL_LEN = 4  # tokens
TRIAL_TEXT = "One two three"


async def examine(client: HttpClient, target: Target, requests: Sequence[TrafficRequest]) -> Target:
    """The target with its model and kind filled in, after one short request that was answered as it should be.

    `requests` tells which endpoint is meant. Raises `TargetError`.
    """
    described = await describe(client, target)
    target = replace(target, kind=described.kind, model=described.model)
    bare: dict[str, Any] = {**dict.fromkeys(target.dialect.fields), **FINAL}
    known: list[dict[str, Any]] = [] if target.kind == "openai" else [{}]
    for fields in (*known, {**bare, **EXACT}):  # as its make understands it; else at least with exact lengths
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
    try:
        await client.exchange(await client.connected(), client.request("POST", path, body), answer)
    except OSError as error:
        raise TargetError(f"{target.address}{path} broke off: {error}") from None
    outcome, error_text = answer.outcome()
    if outcome != "ok":
        raise TargetError(f"{target.address}{path} {error_text}")


def _trial(requests: Sequence[TrafficRequest]) -> TrafficRequest:
    """A prompt of the traffic's kind that shares nothing with it."""
    first = requests[0]
    prompt: dict[str, Any] = {"text": TRIAL_TEXT}
    if first.messages is not None:
        prompt = {"messages": ({"role": "user", "content": TRIAL_TEXT},)}
    elif first.token_ids is not None:
        prompt = {"token_ids": first.token_ids[:TRIAL_LEN]}
    return TrafficRequest(index=0, prompt_len=TRIAL_LEN, output_len=TRIAL_LEN, **prompt)
