"""Every route as a client sees it: what it takes, what it answers. The OpenAPI document is made from this table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, get_args

from msgspec import Meta

from vivace.serve.dashboard.assets import ASSET_PATHS, FOLDER
from vivace.serve.wire.chat import ChatChunk, ChatCompletion, ChatRequest
from vivace.serve.wire.completions import Completion, CompletionRequest
from vivace.serve.wire.dashboard import DashboardState
from vivace.serve.wire.embeddings import EmbeddingRequest, EmbeddingResponse
from vivace.serve.wire.explanation import RequestExplanation
from vivace.serve.wire.models import Model, ModelList
from vivace.serve.wire.responses import Event, ResponseObject, ResponsesRequest
from vivace.serve.wire.status import Health, Readiness, Version
from vivace.serve.wire.tokenize import Detokenized, DetokenizeRequest, Tokenized, TokenizeRequest

EITHER_PROMPT_OR_MESSAGES = Meta(
    extra_json_schema={
        "oneOf": [
            {"required": ["prompt"], "properties": {"prompt": {"type": "string"}, "messages": {"type": "null"}}},
            {"required": ["messages"], "properties": {"prompt": {"type": "null"}, "messages": {"type": "array"}}},
        ]
    }
)


@dataclass(frozen=True, slots=True)
class Operation:
    """One method of one path. `request` and `response` are types that msgspec knows.

    `events` are what an event of a stream may hold, for routes that can stream. `text_types` are media types of an
    answer that is no JSON. `failures` are answers of other statuses that are not our usual error. `segments` are the
    schemas of what stands in braces in the path; the model's names are known to who makes the document.
    """

    method: Literal["GET", "POST"]
    path: str
    name: str
    summary: str
    request: Any = None
    response: Any = None
    events: tuple[Any, ...] = ()
    text_types: tuple[str, ...] = ()
    is_open: bool = False  # answered without a key
    failures: Mapping[int, Any] = field(default_factory=dict)
    segments: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


OPERATIONS = (
    Operation(
        "POST",
        "/v1/completions",
        "create_completion",
        "Go on with a text.",
        request=CompletionRequest,
        response=Completion,
        events=(Completion,),
    ),
    Operation(
        "POST",
        "/v1/chat/completions",
        "create_chat_completion",
        "Answer a conversation.",
        request=ChatRequest,
        response=ChatCompletion,
        events=(ChatChunk,),
    ),
    Operation(
        "POST",
        "/v1/responses",
        "create_response",
        "Answer a conversation of items.",
        request=ResponsesRequest,
        response=ResponseObject,
        events=get_args(Event),
    ),
    Operation(
        "POST",
        "/v1/embeddings",
        "create_embeddings",
        "One vector for every input.",
        request=EmbeddingRequest,
        response=EmbeddingResponse,
    ),
    Operation("GET", "/v1/models", "list_models", "What is served.", response=ModelList),
    Operation("GET", "/v1/models/{model}", "retrieve_model", "One of the models.", response=Model),
    Operation(
        "POST",
        "/tokenize",
        "tokenize",
        "Token ids of a text or a conversation.",
        request=Annotated[TokenizeRequest, EITHER_PROMPT_OR_MESSAGES],
        response=Tokenized,
    ),
    Operation("POST", "/detokenize", "detokenize", "Text of token ids.", DetokenizeRequest, Detokenized),
    Operation(
        "GET",
        "/v1/requests/{id}/explain",
        "explain_request",
        "Why a request of this key took as long as it did.",
        response=RequestExplanation,
        segments={"id": {"type": "string", "minLength": 1, "pattern": "^[A-Za-z0-9_-]+$"}},
    ),
    Operation("GET", "/metrics", "metrics", "Numbers for Prometheus.", text_types=("text/plain",)),
    Operation("GET", "/health", "health", "Whether the process lives.", response=Health, is_open=True),
    Operation("GET", "/version", "version", "Which version serves.", response=Version, is_open=True),
    Operation(
        "GET",
        "/ready",
        "ready",
        "Whether requests are served.",
        response=Readiness,
        is_open=True,
        failures={503: Readiness},
    ),
    Operation("GET", "/openapi.json", "openapi", "This document.", response=dict[str, Any]),
    Operation("GET", "/", "dashboard_page", "The dashboard.", text_types=("text/html",), is_open=True),
    Operation(
        "GET",
        "/dashboard/{asset}",
        "dashboard_asset",
        "A file of the dashboard.",
        text_types=("text/css", "text/javascript", "image/svg+xml"),
        is_open=True,
        segments={"asset": {"enum": [path.removeprefix(FOLDER) for path in sorted(ASSET_PATHS) if path != "/"]}},
    ),
    Operation("GET", "/dashboard/state", "dashboard_state", "What the dashboard draws.", response=DashboardState),
)
