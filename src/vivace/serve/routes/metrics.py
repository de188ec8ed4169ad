"""What Prometheus scrapes."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from vivace.serve.metrics import MetricsCollector
from vivace.serve.metrics.exposition import OPENMETRICS, TEXT, openmetrics_text, prometheus_text


async def metrics(request: Request) -> Response:
    """Prometheus text, or OpenMetrics where the scraper accepts it."""
    service = request.app.state.service
    collector = MetricsCollector(service.model_name, service.metrics, service.engine, service.admission)
    if "application/openmetrics-text" in request.headers.get("accept", ""):
        return Response(openmetrics_text(collector.collect()), headers={"content-type": OPENMETRICS})
    return Response(prometheus_text(collector.collect()), headers={"content-type": TEXT})


ROUTES = [Route("/metrics", metrics)]
