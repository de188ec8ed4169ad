"""GET /openapi.json."""

from __future__ import annotations

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from vivace.serve.openapi import build_document
from vivace.serve.operations import OPERATIONS


async def openapi(request: Request) -> Response:
    """The document of this server: its model names, and whether it asks for keys."""
    state = request.app.state
    document = build_document(OPERATIONS, models=state.service.model_names, secured=bool(state.config.api_key))
    return Response(msgspec.json.encode(document), media_type="application/json")


ROUTES = [Route("/openapi.json", openapi)]
