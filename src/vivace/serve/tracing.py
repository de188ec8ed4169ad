"""Whether requests are traced, and where their spans go.

Spans leave from a thread of OpenTelemetry's SDK, over OTLP/HTTP; where nobody takes them they are dropped, and no
request notices. What they say stands in `spans`, which is imported only where it is asked for: it needs an extra.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from vivace.core.errors import ConfigError
from vivace.core.sampling import SamplingParams
from vivace.serve.stories import RequestStory

ENDPOINT_VARIABLES = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
PROTOCOL_VARIABLES = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
PROTOCOL = "http/protobuf"
TRACES_PATH = "/v1/traces"

logger = logging.getLogger("vivace.serve")


@dataclass(frozen=True, slots=True)
class TracedCall:
    """What of a request only its HTTP side knows. `headers` are those that may name a trace, as W3C has them."""

    path: str
    params: SamplingParams
    headers: Mapping[str, str] = field(default_factory=dict)


class Tracer(Protocol):
    """Takes the story of each request that has ended. Neither method raises; `record` does not wait."""

    def record(self, story: RequestStory, call: TracedCall, error: BaseException | None) -> None: ...

    def close(self) -> None: ...


def make_tracer(endpoint: str | None, model: str, environment: Mapping[str, str] = os.environ) -> Tracer | None:
    """The tracer that a flag or the standard OTEL_* variables ask for; None where nothing does.

    Raises `ConfigError` where the flag asks for it and it cannot be; what the environment asks for in vain is logged.
    """
    is_disabled = environment.get("OTEL_SDK_DISABLED", "").strip().lower() == "true"
    if endpoint is None and (is_disabled or not any(environment.get(name) for name in ENDPOINT_VARIABLES)):
        return None
    try:
        return _tracer(endpoint, model, environment)
    except ConfigError as error:
        if endpoint is not None:
            raise
        logger.warning("no traces are sent: %s", error)
        return None


def traces_url(endpoint: str) -> str:
    """Where OTLP/HTTP takes traces: at `/v1/traces` of a collector that was named without a path."""
    base = endpoint.rstrip("/")
    return base if "/" in base.partition("://")[2] else base + TRACES_PATH


def _tracer(endpoint: str | None, model: str, environment: Mapping[str, str]) -> Tracer:
    protocol = next((environment[name] for name in PROTOCOL_VARIABLES if environment.get(name)), PROTOCOL)
    if endpoint is None and protocol != PROTOCOL:
        raise ConfigError(f"traces leave as {PROTOCOL} only, and the environment asks for {protocol}")
    try:
        from vivace.serve.spans import RequestTracer, exporting_processor
    except ImportError as error:
        raise ConfigError(f"traces need OpenTelemetry: pip install 'vivace[otel]' ({error})") from None
    return RequestTracer(exporting_processor(None if endpoint is None else traces_url(endpoint)), model)
