"""GET /openapi.json."""

from __future__ import annotations

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from vivace.serve.openapi import ServedModel, build_document
from vivace.serve.operations import OPERATIONS


async def openapi(request: Request) -> Response:
    """The document of this server: with the names and bounds of its model."""
    state = request.app.state
    info = state.service.engine.info
    model = ServedModel(state.service.model_names, info.vocab_size, info.hidden_size)
    document = build_document(OPERATIONS, model, secured=bool(state.config.api_key or state.config.api_key_file))
    return Response(msgspec.json.encode(document), media_type="application/json")


ROUTES = [Route("/openapi.json", openapi)]
