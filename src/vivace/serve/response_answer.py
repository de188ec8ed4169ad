"""The object that /v1/responses answers with, whole or as events."""

from __future__ import annotations

from typing import Any

import msgspec

from vivace.core.events import TokenLogprobs
from vivace.serve.batch import Batch
from vivace.serve.generation import Piece
from vivace.serve.response_events import ResponseEvents
from vivace.serve.sampling_order import or_default
from vivace.serve.service import Service
from vivace.serve.tools.plan import ChatPlan
from vivace.serve.wire import responses as wire

WITH_LOGPROBS = "message.output_text.logprobs"


class ResponseAnswer:
    """One response, piece by piece."""

    def __init__(
        self, service: Service, body: wire.ResponsesRequest, batch: Batch, plan: ChatPlan, name: str
    ) -> None:
        self._service = service
        self._body = body
        self._batch = batch
        self._parser = plan.parser()
        self.response = _new_response(service, body, name)
        self._events = ResponseEvents(self.response, name.removeprefix("resp_"))
        self._finish: str | None = None

    def opening(self) -> list[wire.Event]:
        return [self._events.about_response(f"response.{kind}") for kind in ("created", "in_progress")]

    def push(self, pieces: list[Piece]) -> list[wire.Event]:
        events: list[wire.Event] = []
        for piece in pieces:
            deltas = self._parser.push(piece.text)
            if piece.finish_reason is not None:
                deltas += self._parser.finish()
                self._finish = piece.finish_reason
            events += self._events.push(deltas, self._logprobs(piece.logprobs))
        return events

    def closing(self) -> list[wire.Event]:
        """After the last piece: the response is final now."""
        status: wire.Status = "incomplete" if self._finish == "length" else "completed"
        events = self._events.close(status)
        response = self.response
        response.status = status
        response.completed_at = self._service.now() if status == "completed" else None
        if status == "incomplete":
            response.incomplete_details = wire.IncompleteDetails("max_output_tokens")
        response.usage = self._usage()
        response.timings = self._batch.timings if self._body.timings else None
        return [*events, self._events.about_response(f"response.{status}")]

    def _usage(self) -> wire.ResponseUsage:
        usage = self._batch.usage
        return wire.ResponseUsage(
            usage.prompt_tokens,
            wire.InputTokensDetails(usage.prompt_tokens_details.cached_tokens),
            usage.completion_tokens,
            wire.OutputTokensDetails(usage.completion_tokens_details.reasoning_tokens),
            usage.total_tokens,
        )

    def _logprobs(self, logprobs: list[TokenLogprobs]) -> list[wire.ResponseLogprob]:
        if not logprobs or WITH_LOGPROBS not in (self._body.include or ()):
            return []
        shaped = self._service.logprobs.chat(logprobs, self._body.top_logprobs or 0)
        return msgspec.convert(shaped.content, list[wire.ResponseLogprob], from_attributes=True)


def _new_response(service: Service, body: wire.ResponsesRequest, name: str) -> wire.ResponseObject:
    text_format: dict[str, Any] = (body.text.format if body.text else None) or {"type": "text"}
    return wire.ResponseObject(
        id=name,
        created_at=service.now(),
        model=service.model_name,
        status="in_progress",
        output=[],
        temperature=or_default(body.temperature, service.sampling_defaults.temperature),
        top_p=or_default(body.top_p, service.sampling_defaults.top_p),
        instructions=body.instructions,
        max_output_tokens=body.max_output_tokens,
        metadata=body.metadata or {},
        parallel_tool_calls=body.parallel_tool_calls is not False,
        text={"format": text_format},
        tool_choice=body.tool_choice or "auto",
        tools=body.tools or [],
        top_logprobs=body.top_logprobs or 0,
        user=body.user,
    )
