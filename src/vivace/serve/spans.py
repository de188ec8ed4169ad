"""Spans of requests in the words of OpenTelemetry's GenAI conventions (as of 1.41, in development).

The only file that needs the extra `otel`. No text of a prompt or an answer is ever part of a span.
"""

from __future__ import annotations

import logging
import threading
import time
from typing import Any

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from vivace import __version__
from vivace.core.sampling import SamplingParams
from vivace.serve.stories import PromptStory, RequestStory
from vivace.serve.tracing import TracedCall

FAREWELL_S = 3.0  # for the last spans, should the collector be slow
OPERATIONS = {
    "/v1/chat/completions": "chat",
    "/v1/responses": "chat",
    "/v1/completions": "text_completion",
    "/v1/embeddings": "embeddings",
}

logger = logging.getLogger("vivace.serve")


def exporting_processor(url: str | None) -> SpanProcessor:
    """Batches over OTLP/HTTP, to `url` or to where the OTEL_* variables say."""
    return BatchSpanProcessor(OTLPSpanExporter(endpoint=url))


class RequestTracer:
    """Turns stories into spans. `processor` takes them."""

    def __init__(self, processor: SpanProcessor, model: str) -> None:
        own = Resource({"service.name": "vivace", "service.version": __version__})
        found = OTELResourceDetector().detect()  # OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES win
        resource = Resource.create().merge(own).merge(found)
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(processor)
        self._tracer = self._provider.get_tracer("vivace", __version__)
        self._propagator = TraceContextTextMapPropagator()
        self._model = model
        self._has_failed = False

    def record(self, story: RequestStory, call: TracedCall, error: BaseException | None) -> None:
        """One finished request. Never raises: a trace is not worth a request."""
        try:
            self._record(story, call, error)
        except Exception:
            if not self._has_failed:
                logger.exception("a request could not be traced; further failures are not logged")
            self._has_failed = True

    def close(self) -> None:
        """Send what is left, as far as that takes no longer than `FAREWELL_S`."""
        thread = threading.Thread(target=self._provider.shutdown, name="vivace-traces", daemon=True)
        thread.start()
        thread.join(FAREWELL_S)

    def _record(self, story: RequestStory, call: TracedCall, error: BaseException | None) -> None:
        to_epoch_ns = time.time_ns() - time.monotonic_ns()
        operation, prompts = OPERATIONS.get(call.path, "generate_content"), story.prompts
        if not prompts:  # refused before its first
            return
        sampling = {} if operation == "embeddings" else _sampling(call.params)
        span = self._tracer.start_span(
            f"{operation} {self._model}",
            context=self._propagator.extract(dict(call.headers)),
            kind=SpanKind.SERVER,
            attributes={"gen_ai.operation.name": operation, **self._attributes(story), **sampling},
            start_time=_ns(min(one.arrived for one in prompts), to_epoch_ns),
        )
        for number, prompt in enumerate(prompts):
            for moment, name, facts in _events(prompt):
                numbered = facts if len(prompts) == 1 else {"vivace.prompt.index": number, **facts}
                span.add_event(name, numbered, timestamp=_ns(moment, to_epoch_ns))
        if isinstance(error, Exception):  # not where the client left
            span.set_attribute("error.type", type(error).__name__)
            span.set_status(Status(StatusCode.ERROR, type(error).__name__))
        ends = [one.ended for one in prompts if one.ended is not None]
        span.end(_ns(max(ends, default=time.monotonic()), to_epoch_ns))

    def _attributes(self, story: RequestStory) -> dict[str, Any]:
        prompts = story.prompts
        reasons = [one.finish_reason for one in prompts if one.finish_reason is not None]
        first_tokens = [one.first_token for one in prompts if one.first_token is not None]
        attributes: dict[str, Any] = {
            "gen_ai.provider.name": "vivace",
            "gen_ai.request.model": self._model,
            "gen_ai.response.model": self._model,
            "gen_ai.usage.input_tokens": sum(one.num_prompt_tokens for one in prompts),
            "gen_ai.usage.output_tokens": sum(one.num_output_tokens for one in prompts),
            "gen_ai.usage.cache_read.input_tokens": sum(one.num_cached_tokens for one in prompts),
            "gen_ai.response.finish_reasons": reasons,
            "vivace.request.id": story.request_id,
            "vivace.key": story.key,
        }
        if first_tokens:
            arrived = min(one.arrived for one in prompts)
            attributes["gen_ai.response.time_to_first_chunk"] = min(first_tokens) - arrived
        return attributes


def _sampling(params: SamplingParams) -> dict[str, Any]:
    """What was asked of the sampler. No stop strings: they are text of the client's."""
    optional = {
        "gen_ai.request.temperature": params.temperature,
        "gen_ai.request.top_p": params.top_p,
        "gen_ai.request.max_tokens": params.max_tokens,
        "gen_ai.request.seed": params.seed if params.seed is None or params.seed < 2**63 else None,
        "gen_ai.request.choice.count": params.n if params.n != 1 else None,
        "gen_ai.request.top_k": params.top_k or None,
        "gen_ai.request.frequency_penalty": params.frequency_penalty or None,
        "gen_ai.request.presence_penalty": params.presence_penalty or None,
    }
    return {name: value for name, value in optional.items() if value is not None}


def _events(story: PromptStory) -> list[tuple[float, str, dict[str, Any]]]:
    """(moment, name, attributes) of what happened to a prompt, in its order."""
    account = story.account
    queue: dict[str, Any] = {"vivace.queue.num_ahead": story.num_ahead}
    queue |= {f"vivace.queue.{name}_s": seconds for name, seconds in story.delays.items()}
    prefill: dict[str, Any] = {"vivace.prompt.cached_tokens": story.num_cached_tokens}
    decode: dict[str, Any] = {"vivace.output_tokens": story.num_output_tokens}
    if account is not None:
        prefill["vivace.prefill.num_chunks"] = account.num_chunks
        if account.miss is not None:
            prefill["vivace.prefix.first_miss"] = account.miss.reason
        decode |= {
            "vivace.decode.num_steps": account.num_steps,
            "vivace.num_preemptions": account.num_preemptions,
            "vivace.speculation.num_guessed": account.num_guessed,
            "vivace.speculation.num_accepted": account.num_accepted,
        }
    events = [
        (story.prepared, "vivace.queue", queue),
        (story.admitted, "vivace.prefill", prefill),
        (story.first_token, "vivace.first_token", {}),
        (story.ended if story.first_token is not None else None, "vivace.decode", decode),
    ]
    return [(moment, name, facts) for moment, name, facts in events if moment is not None]


def _ns(moment: float, to_epoch_ns: int) -> int:
    return int(moment * 1e9) + to_epoch_ns
