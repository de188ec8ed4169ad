"""GET /v1/models and /v1/models/{model}."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from vivace.serve.json_answer import json_answer
from vivace.serve.service import Service
from vivace.serve.wire.models import Model, ModelList


async def list_models(request: Request) -> Response:
    service: Service = request.app.state.service
    return json_answer(ModelList([_model(service, name) for name in service.model_names]))


async def retrieve_model(request: Request) -> Response:
    service: Service = request.app.state.service
    name = request.path_params["model"]
    service.check_model(name)
    return json_answer(_model(service, name))


def _model(service: Service, name: str) -> Model:
    info = service.engine.info
    return Model(name, service.created, info.max_model_len, service.model_name, info.sampling_defaults)


ROUTES = (
    Route("/v1/models", list_models, methods=["GET"]),
    Route("/v1/models/{model:path}", retrieve_model, methods=["GET"]),
)
