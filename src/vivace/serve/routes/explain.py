"""GET /v1/requests/{id}/explain."""

from __future__ import annotations

import asyncio
import time

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from vivace.serve.errors import HttpError
from vivace.serve.explanation import explain
from vivace.serve.json_answer import json_answer
from vivace.serve.service import Service
from vivace.serve.stories import PromptStory


async def explain_request(request: Request) -> Response:
    """Why a request took as long as it did, or takes: for the key that made it alone."""
    service: Service = request.app.state.service
    request_id = request.path_params["id"]
    story = service.book.find(request_id, request.state.api_key.name)
    if story is None:
        raise HttpError(
            404,
            f"no request {request_id[:64]!r} of this key is remembered: use its answer's id or its X-Request-Id; "
            f"the last {service.book.max_requests} that were let in are kept, and {service.book.max_refused} refused "
            "ones",
            code="request_not_found",
        )
    await asyncio.gather(*(_refresh(service, one) for one in story.prompts if one.status == "running"))
    answer = json_answer(explain(story, service.engine.info.block_size, time.monotonic()))
    answer.headers["Cache-Control"] = "no-store"
    return answer


async def _refresh(service: Service, story: PromptStory) -> None:
    """What the engine knows by now of one that runs."""
    account = await service.engine.account(story.job_id)
    if account is not None and story.status == "running":  # else the last one has come meanwhile
        story.account = account


ROUTES = (Route("/v1/requests/{id}/explain", explain_request),)
