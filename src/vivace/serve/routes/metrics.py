"""What Prometheus scrapes."""

from __future__ import annotations

from prometheus_client.exposition import generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.registry import CollectorRegistry
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from vivace.serve.metrics import MetricsCollector

TEXT = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"


async def metrics(request: Request) -> Response:
    """Prometheus text, or OpenMetrics where the scraper accepts it."""
    service = request.app.state.service
    registry = CollectorRegistry(auto_describe=False)
    registry.register(MetricsCollector(service.model_name, service.metrics, service.engine, service.admission))
    if "application/openmetrics-text" in request.headers.get("accept", ""):
        body = generate_openmetrics(registry)  # type: ignore[no-untyped-call]
        return Response(body, headers={"content-type": OPENMETRICS})
    return Response(generate_latest(registry), headers={"content-type": TEXT})


ROUTES = [Route("/metrics", metrics)]
