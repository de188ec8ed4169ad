"""What the server says of itself: Prometheus metrics, per process of the front."""

from vivace.serve.metrics.collector import MetricsCollector
from vivace.serve.metrics.middleware import MetricsMiddleware
from vivace.serve.metrics.server_metrics import RequestMetrics, ServerMetrics

__all__ = ["MetricsCollector", "MetricsMiddleware", "RequestMetrics", "ServerMetrics"]
