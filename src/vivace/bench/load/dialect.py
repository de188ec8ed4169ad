"""Servers of OpenAI's make, and in what they differ where an answer of a given length is asked for and measured.

As documented by each: vLLM, SGLang and TensorRT-LLM count tokens in every event (`continuous_usage_stats`), llama.cpp
tells them in `timings`, TGI sends one token an event and cannot be kept from ending early.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

Kind = Literal["vivace", "vllm", "sglang", "trtllm", "llamacpp", "tgi", "openai"]

EXACT = {"ignore_eos": True}
CONTINUOUS = {"stream_options": {"include_usage": True, "continuous_usage_stats": True}}
FINAL = {"stream_options": {"include_usage": True}}


@dataclass(frozen=True, slots=True)
class Dialect:
    """`fields` are added to every request; `is_exact`: answers have the length asked for; `title` for people."""

    kind: Kind
    title: str
    fields: dict[str, Any] = field(default_factory=dict)
    metrics_prefix: str | None = None
    takes_token_ids: bool = True

    @property
    def is_exact(self) -> bool:
        return "ignore_eos" in self.fields


DIALECTS: dict[Kind, Dialect] = {
    dialect.kind: dialect
    for dialect in (
        Dialect("vivace", "Vivace", {**EXACT, **CONTINUOUS, "timings": True}, "vivace:"),
        Dialect("vllm", "vLLM", {**EXACT, **CONTINUOUS}, "vllm:"),
        Dialect("sglang", "SGLang", {**EXACT, **CONTINUOUS}, "sglang:"),
        Dialect("trtllm", "TensorRT-LLM", {**EXACT, **CONTINUOUS}, "trtllm_"),
        Dialect("llamacpp", "llama.cpp", {**EXACT, **FINAL, "timings_per_token": True}, "llamacpp:"),
        Dialect("tgi", "TGI", dict(FINAL), "tgi_", takes_token_ids=False),
        Dialect("openai", "a server of OpenAI's make", dict(FINAL)),
    )
}

OWNERS: dict[str, Kind] = {  # `owned_by` of /v1/models
    "vivace": "vivace",
    "vllm": "vllm",
    "sglang": "sglang",
    "tensorrt_llm": "trtllm",
    "llamacpp": "llamacpp",
}
