"""What a server says of itself before anything is sent: its make, its models, its context window."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

from vivace.bench.load.client import HttpClient, WholeResponse
from vivace.bench.load.dialect import DIALECTS, OWNERS, Kind
from vivace.bench.load.exposition import totals
from vivace.bench.load.target import Target
from vivace.core.errors import TargetError
from vivace.core.nearest_name import nearest_name

ANSWER_S = 60.0  # to all questions: they take milliseconds, and a model that is loading answers them late or never
_MARKS: tuple[tuple[str, str, Kind], ...] = (
    ("/props", "default_generation_settings", "llamacpp"),
    ("/info", "max_total_tokens", "tgi"),
)


@dataclass(frozen=True, slots=True)
class Description:
    """`max_model_len` is None where the server does not tell."""

    kind: Kind
    model: str
    max_model_len: int | None = None


async def describe(client: HttpClient, target: Target) -> Description:
    """Raises `TargetError` for a server that is not there, wants another key or has no such model."""
    try:
        async with asyncio.timeout(ANSWER_S):
            return await _described(client, target)
    except TimeoutError:
        raise TargetError(
            f"{target.address} takes connections, but did not say within {ANSWER_S:g} s what it serves: "
            "is it a server of OpenAI's make, and does it run?"
        ) from None
    except OSError as error:
        reason = error.strerror or str(error) or type(error).__name__
        raise TargetError(f"no server answers at {target.address}: {reason}") from None


async def _described(client: HttpClient, target: Target) -> Description:
    response = await client.fetch("GET", "/v1/models")
    _check_key(response, target)
    models = _models(response)
    name = _model_name(target, [model["id"] for model in models])
    owner = str(models[0].get("owned_by")) if models else ""
    entry = next((model for model in models if model["id"] == name), {})
    return Description(OWNERS.get(owner) or await _kind(client), name, _max_model_len(entry))


def _check_key(response: WholeResponse, target: Target) -> None:
    if response.status not in (401, 403):
        return
    if target.api_key is None:
        raise TargetError(f"{target.address} wants a key ({response.status}): give it with --api-key")
    raise TargetError(f"{target.address} does not know the key ({response.status})")


def _models(response: WholeResponse) -> list[dict[str, Any]]:
    """Empty where the server has no such list."""
    body = response.json()
    entries = body.get("data") if isinstance(body, dict) else None
    return [entry for entry in entries or () if isinstance(entry, dict) and isinstance(entry.get("id"), str)]


def _model_name(target: Target, names: list[str]) -> str:
    if target.model is None:
        if not names:
            raise TargetError(f"{target.address} does not say which models it serves: name one with --model-name")
        return names[0]
    if names and target.model not in names:
        raise TargetError(f"{target.address} has no model {target.model!r}{nearest_name(target.model, names[:8])}")
    return target.model


def _max_model_len(model: dict[str, Any]) -> int | None:
    """vLLM, SGLang and Vivace have it in the entry, llama.cpp in its `meta`."""
    meta = model.get("meta")
    value = model.get("max_model_len") or (meta.get("n_ctx") if isinstance(meta, dict) else None)
    return value if isinstance(value, int) and value > 0 else None


async def _kind(client: HttpClient) -> Kind:
    """From what each server alone has: names of metrics, llama.cpp's /props, TGI's /info."""
    metrics = await client.fetch("GET", "/metrics")
    if metrics.status == 200:
        found = totals(metrics.body.decode("utf-8", "replace"))
        for dialect in DIALECTS.values():
            if dialect.metrics_prefix and any(name.startswith(dialect.metrics_prefix) for name in found):
                return dialect.kind
        if isinstance(metrics.json(), list):
            return "trtllm"  # its /metrics is a list of iterations, not Prometheus' text
    for path, field, kind in _MARKS:
        answer = (await client.fetch("GET", path)).json()
        if isinstance(answer, dict) and field in answer:
            return kind
    return "openai"
