"""The layer of the application that counts HTTP exchanges."""

from __future__ import annotations

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from vivace.serve.metrics.http_metrics import UNMATCHED, HttpMetrics

CLIENT_GONE = 499  # no status was sent: nobody was there to read one
REFUSED_STATUS = "refused_status"  # in the scope of a request that the protocol refused on its way: what it answered


class MetricsMiddleware:
    """Reports each HTTP exchange to `HttpMetrics` when its last byte is out or its client is gone."""

    def __init__(self, app: ASGIApp, metrics: HttpMetrics) -> None:
        self._app = app
        self._metrics = metrics
        self._patterns: dict[object, str] = {}  # of the routes, by endpoint

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        metrics, status = self._metrics, CLIENT_GONE
        began = metrics.clock()

        async def noting_send(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        metrics.num_open += 1
        try:
            await self._app(scope, receive, noting_send)
        finally:
            metrics.num_open -= 1
            if status == CLIENT_GONE:
                status = scope.get(REFUSED_STATUS, CLIENT_GONE)
            metrics.answered(self._pattern(scope), scope["method"], status, metrics.clock() - began)

    def _pattern(self, scope: Scope) -> str:
        """Of the route that the router chose; one label for all that it did not find or that went no further."""
        if not self._patterns:
            routes = scope["app"].routes
            self._patterns = {route.endpoint: route.path for route in routes if hasattr(route, "endpoint")}
        return self._patterns.get(scope.get("endpoint"), UNMATCHED)
