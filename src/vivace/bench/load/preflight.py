"""Before a run: does the server know us and the model, and does it stream?"""

from __future__ import annotations

import asyncio
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

    `requests` tells which endpoint is meant. A server that does not take its make's fields is asked with fewer.
    Raises `TargetError` for one that answers none of them, is too busy, or says nothing in time.
    """
    described = await describe(client, target)
    target = replace(target, kind=described.kind, model=described.model)
    bare: dict[str, Any] = {**dict.fromkeys(target.dialect.fields), **FINAL}
    known: list[dict[str, Any]] = [] if target.kind == "openai" else [{}]
    complaint = None
    for fields in (*known, {**bare, **EXACT}, bare):  # as its make understands it; else at least with exact lengths
        asked = replace(target, extra={**fields, **target.extra})
        complaint = await _complaint(client, asked, requests)
        if complaint is None:
            return asked
    raise TargetError(f"{complaint}")


async def _complaint(client: HttpClient, target: Target, requests: Sequence[TrafficRequest]) -> str | None:
    """Why a short request has no answer, None where it has one. Raises `TargetError` where other fields change
    nothing: a server that is busy must not be taken for one that does not know them."""
    path, body = request_body(_trial(requests), target)
    place = f"{target.address}{path}"
    answer = StreamedAnswer()
    try:
        async with asyncio.timeout(target.timeout_s):
            await client.exchange(await client.connected(), client.request("POST", path, body), answer)
    except TimeoutError:
        raise TargetError(f"{place} gave no whole answer to a short request within {target.timeout_s:g} s") from None
    except OSError as error:
        return f"{place} broke off: {error}"
    outcome, reason = answer.outcome()
    if outcome == "refused":
        raise TargetError(f"{place} {reason}; measure it when it is idle")
    return None if outcome == "ok" else f"{place} {reason}"


def _trial(requests: Sequence[TrafficRequest]) -> TrafficRequest:
    """A prompt of the traffic's kind that shares nothing with it."""
    first = requests[0]
    prompt: dict[str, Any] = {"text": TRIAL_TEXT}
    if first.messages is not None:
        prompt = {"messages": ({"role": "user", "content": TRIAL_TEXT},)}
    elif first.token_ids is not None:
        prompt = {"token_ids": first.token_ids[:TRIAL_LEN]}
    return TrafficRequest(index=0, prompt_len=TRIAL_LEN, output_len=TRIAL_LEN, **prompt)
