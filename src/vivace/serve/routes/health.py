"""Whether the process lives, whether it serves, and which version it is."""

from __future__ import annotations

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from vivace import __version__


async def health(request: Request) -> Response:
    """Alive: the event loop answers, also while the model loads, the engine restarts or requests drain.

    503 only when the engine has been given up: whoever looks after this process should start another one.
    """
    is_alive = request.app.state.lifecycle.obstacle() != "stopped"
    return _json({"status": "ok" if is_alive else "stopped", "version": __version__}, 200 if is_alive else 503)


async def ready(request: Request) -> Response:
    """200 only when the engine has generated a token, stands, and the server takes new requests."""
    obstacle = request.app.state.lifecycle.obstacle()
    return _json({"status": obstacle or "ready"}, 200 if obstacle is None else 503)


async def version(_: Request) -> Response:
    """As vLLM's clients ask for it; in every state, without a key, like the two above."""
    return _json({"version": __version__}, 200)


def _json(value: dict[str, str], status: int) -> Response:
    response = Response(msgspec.json.encode(value), status, media_type="application/json")
    if status == 503:
        response.headers["Retry-After"] = "1"
    return response


ROUTES = [Route("/health", health), Route("/ready", ready), Route("/version", version)]
