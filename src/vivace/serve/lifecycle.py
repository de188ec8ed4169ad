"""Where the server stands between its start and its end, and whom it serves meanwhile."""

from __future__ import annotations

from collections.abc import Callable

from starlette.types import ASGIApp, Receive, Scope, Send

from vivace.core.errors import UnavailableError
from vivace.serve.dashboard.assets import ASSET_PATHS
from vivace.serve.errors import error_response

OPEN_PATHS = frozenset({"/health", "/ready", "/version"}) | ASSET_PATHS  # answered in every state, without a key
WATCHING_PATHS = frozenset({"/metrics", "/dashboard/state"})
LOADING_RETRY_S = 5.0


class Lifecycle:
    """Loading, serving, draining. Ready only when the engine has generated a token and stands."""

    def __init__(self) -> None:
        self.draining = False
        self._engine_state: Callable[[], str] | None = None

    def warmed_up(self, engine_state: Callable[[], str]) -> None:
        """The engine has generated a token; from now on `engine_state()` says how it is."""
        self._engine_state = engine_state

    def drain(self) -> None:
        """Serve nobody new."""
        self.draining = True

    def obstacle(self) -> str | None:
        """Why the server is not ready; None when it is."""
        if self.draining:
            return "draining"
        if self._engine_state is None:
            return "loading"
        state = self._engine_state()
        return None if state == "ready" else state

    def refusal(self, path: str) -> UnavailableError | None:
        """What a new request is told; None lets it in. While the engine restarts, requests wait in the journal."""
        obstacle = self.obstacle()
        if obstacle in (None, "restarting") or path in OPEN_PATHS:
            return None
        if obstacle == "draining" and path in WATCHING_PATHS and self._engine_state is not None:
            return None  # the last minute of a server is worth seeing
        if obstacle == "draining":
            return UnavailableError("the server is shutting down: ask another one", retry_after_s=1.0)
        if obstacle == "loading":
            return UnavailableError("the model is loading: come again", retry_after_s=LOADING_RETRY_S)
        return UnavailableError(f"the engine is {obstacle}", retry_after_s=LOADING_RETRY_S)


class LifecycleGate:
    """ASGI: 503 with Retry-After while nothing is served."""

    def __init__(self, app: ASGIApp, lifecycle: Lifecycle) -> None:
        self.app = app
        self.lifecycle = lifecycle

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        refusal = self.lifecycle.refusal(scope["path"])
        if refusal is None:
            await self.app(scope, receive, send)
            return
        response = error_response(refusal, scope["state"]["request_id"])
        response.headers["Connection"] = "close"
        await response(scope, receive, send)
