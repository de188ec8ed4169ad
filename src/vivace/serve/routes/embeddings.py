"""POST /v1/embeddings."""

from __future__ import annotations

import base64
from collections.abc import Callable

import msgspec
import numpy as np
from msgspec import Raw
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from vivace.core.errors import RequestError
from vivace.engine.pooling import unit_vector
from vivace.serve.body import read_body
from vivace.serve.caller import Caller
from vivace.serve.disconnect import run_until_disconnected
from vivace.serve.early_refusal import refuse_early
from vivace.serve.embedding import PARAMS, EmbeddingBatch, EmbeddingOrder, Input
from vivace.serve.service import Service
from vivace.serve.tracing import TracedCall
from vivace.serve.wire.embeddings import (
    MAX_INPUTS,
    Embedding,
    EmbeddingRequest,
    EmbeddingUsage,
    EncodedEmbeddingResponse,
)


async def create_embeddings(request: Request) -> Response:
    """One vector for every input, in their order."""
    body = await read_body(request, EmbeddingRequest, refuse_early)
    service: Service = request.app.state.service
    service.check_model(body.model)
    _check_dimensions(body.dimensions, service.engine.info.hidden_size)
    caller, inputs = Caller.of(request), _inputs(body)
    encoded: list[Raw] = [Raw()] * len(inputs)
    encode = _encoder(body)

    def keep(number: int, vector: list[float]) -> None:
        encoded[number] = encode(number, vector)

    batch = EmbeddingBatch(
        service.engine,
        service.admission,
        service.metrics,
        service.encoder.encode,
        _order(body, caller, service.request_timeout_s),
        inputs,
        keep,
    )
    with service.told(batch.story, TracedCall(caller.path, PARAMS, caller.trace)):
        await run_until_disconnected(request, batch.run())
    caller.log["num_prompt_tokens"] = batch.num_prompt_tokens
    usage = EmbeddingUsage(batch.num_prompt_tokens, batch.num_prompt_tokens)
    answer = EncodedEmbeddingResponse(encoded, body.model or service.model_name, usage)
    return Response(msgspec.json.encode(answer), media_type="application/json")


def _check_dimensions(dimensions: int | None, hidden_size: int) -> None:
    if dimensions is not None and dimensions != hidden_size:
        raise RequestError(
            f"this model's vectors have {hidden_size} dimensions and it was not trained to have them cut: "
            "leave dimensions out",
            param="dimensions",
        )


def _inputs(body: EmbeddingRequest) -> list[Input]:
    """The inputs as a list; `RequestError` where they are not of one kind or too many."""
    given = body.input
    if isinstance(given, str):
        return [given]
    kinds = {type(entry) for entry in given}
    if len(kinds) > 1:
        raise RequestError(
            "input must hold texts, or token ids, or lists of token ids: not several kinds", param="input"
        )
    if kinds == {int}:
        return [[entry for entry in given if isinstance(entry, int)]]
    if len(given) > MAX_INPUTS:
        raise RequestError(f"input may hold {MAX_INPUTS} entries at most, not {len(given)}", param="input")
    return [entry for entry in given if not isinstance(entry, int)]


def _order(body: EmbeddingRequest, caller: Caller, default_timeout_s: float | None) -> EmbeddingOrder:
    timeout_s = default_timeout_s if body.timeout is None else body.timeout
    return EmbeddingOrder(
        caller.request_id,
        caller.key,
        body.pooling or "mean",
        body.priority or 0,
        caller.salt,
        None if timeout_s is None else caller.arrival + timeout_s,
    )


def _encoder(body: EmbeddingRequest) -> Callable[[int, list[float]], Raw]:
    """Encodes each vector when it comes: all 2,048 of a request at its end would hold up the event loop."""

    def encode(number: int, vector: list[float]) -> Raw:
        if body.normalize is not False:
            vector = unit_vector(vector)
        if body.encoding_format == "base64":
            return _encoded(number, base64.b64encode(np.asarray(vector, "<f4").tobytes()).decode())
        return _encoded(number, vector)

    return encode


def _encoded(number: int, embedding: list[float] | str) -> Raw:
    return Raw(msgspec.json.encode(Embedding(number, embedding)))


ROUTES = [Route("/v1/embeddings", create_embeddings, methods=["POST"])]
