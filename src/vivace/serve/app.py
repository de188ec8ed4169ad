"""The application: routes in their order, and what every request passes on its way to one."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from vivace.core.errors import VivaceError
from vivace.serve.authentication import Authentication, KeyRing
from vivace.serve.body_room import BodyRoom
from vivace.serve.config import ServeConfig
from vivace.serve.errors import HttpError, error_response
from vivace.serve.lifecycle import Lifecycle, LifecycleGate
from vivace.serve.metrics import MetricsMiddleware, ServerMetrics
from vivace.serve.request_scope import RequestScope
from vivace.serve.routes import (
    chat,
    completions,
    dashboard,
    embeddings,
    explain,
    health,
    metrics,
    models,
    openapi,
    responses,
    tokenize,
)

ROUTES: tuple[BaseRoute, ...] = (
    *health.ROUTES,
    *metrics.ROUTES,
    *models.ROUTES,
    *tokenize.ROUTES,
    *completions.ROUTES,
    *chat.ROUTES,
    *responses.ROUTES,
    *embeddings.ROUTES,
    *openapi.ROUTES,
    *explain.ROUTES,
    *dashboard.ROUTES,
)


def build_app(
    config: ServeConfig, lifecycle: Lifecycle, keys: KeyRing, routes: Sequence[BaseRoute] = ROUTES
) -> Starlette:
    """The ASGI app. `app.state` has `config`, `lifecycle`, `metrics` and `bodies`; the server adds `service`."""
    server_metrics = ServerMetrics()
    middleware = [
        Middleware(RequestScope),
        Middleware(MetricsMiddleware, metrics=server_metrics.http),
        *_cross_origin(config.cors_allow_origin),
        Middleware(Authentication, keys=keys),
        Middleware(LifecycleGate, lifecycle=lifecycle),
    ]
    app = Starlette(
        routes=routes,
        middleware=middleware,
        exception_handlers={HTTPException: _refuse, VivaceError: _refuse},
    )
    app.router.redirect_slashes = False  # a redirect would repeat the Host header that the client chose
    app.state.config = config
    app.state.metrics = server_metrics
    app.state.bodies = BodyRoom()
    app.state.lifecycle = lifecycle
    return app


def _cross_origin(origins: tuple[str, ...]) -> list[Middleware]:
    """Outside authentication: a browser's preflight carries no key."""
    if not origins:
        return []
    return [
        Middleware(
            CORSMiddleware,
            allow_origins=origins,
            allow_methods=("GET", "POST"),
            allow_headers=("*",),
            expose_headers=("X-Request-Id", "Retry-After"),
        )
    ]


async def _refuse(request: Request, error: Exception) -> Response:
    """Routing's own refusals and ours. Inside the cross-origin layer, so that browsers may read the reason."""
    if isinstance(error, HTTPException) and not isinstance(error, HttpError):
        error = _explained(request, error)
    return error_response(error, request.state.request_id)


def _explained(request: Request, error: HTTPException) -> HttpError:
    headers = dict(error.headers or {})
    if error.status_code == 404:
        return HttpError(404, f"there is no {request.scope['path'][:200]}", code="unknown_path")
    if error.status_code == 405:
        allowed = headers.get("Allow", "another method")
        return HttpError(405, f"{request.method} is not served here: use {allowed}", headers=headers)
    return HttpError(error.status_code, error.detail, headers=headers)
