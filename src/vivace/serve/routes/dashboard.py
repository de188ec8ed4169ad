"""The dashboard: a page that holds no data, open to everybody, and the numbers it shows, for who has a key."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from vivace.serve.dashboard.assets import asset
from vivace.serve.errors import HttpError

PAGE_HEADERS = {
    "Cache-Control": "no-cache",  # ask again, with the tag: a new version of the server has a new page
    "Content-Security-Policy": (
        "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; object-src 'none'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


async def dashboard_page(request: Request) -> Response:
    """The page and its files, by their exact names."""
    found = asset(request.scope["path"])
    if found is None:
        raise HttpError(404, f"the dashboard has no file {request.scope['path'][:200]}", code="unknown_path")
    headers = {**PAGE_HEADERS, "ETag": found.tag}
    if found.tag in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    return Response(found.body, headers={**headers, "Content-Type": found.media_type})


async def dashboard_asset(request: Request) -> Response:
    return await dashboard_page(request)


async def dashboard_state(request: Request) -> Response:
    body = request.app.state.service.dashboard.answer()
    return Response(body, media_type="application/json", headers={"Cache-Control": "no-store"})


ROUTES = (
    Route("/", dashboard_page),
    Route("/dashboard/state", dashboard_state),
    Route("/dashboard/{asset}", dashboard_asset),
)
