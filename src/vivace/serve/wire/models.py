"""GET /v1/models."""

from __future__ import annotations

from msgspec import Struct

from vivace.core.sampling_defaults import SamplingDefaults


class Model(Struct):
    id: str
    created: int
    max_model_len: int
    root: str
    default_sampling_params: SamplingDefaults  # of requests that leave them out
    parent: None = None
    owned_by: str = "vivace"
    object: str = "model"


class ModelList(Struct):
    data: list[Model]
    object: str = "list"
