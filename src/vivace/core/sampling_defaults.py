"""What a request is sampled with where it does not say."""

from __future__ import annotations

from dataclasses import dataclass, fields

from vivace.core.errors import RequestError
from vivace.core.sampling import SamplingParams

COMPLETION_TOKENS = 16  # OpenAI's and vLLM's, where neither the request nor the model's makers say


@dataclass(frozen=True, slots=True)
class SamplingDefaults:
    """Values that stand in for those that a request leaves out; without advice from the model's makers: neutral.

    `max_tokens=None` means: up to the context window. Raises `RequestError` naming a value that no request may have.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    max_tokens: int | None = None

    def __post_init__(self) -> None:
        if self.max_tokens is not None and self.max_tokens == 0:
            raise RequestError("max_tokens must be at least 1 where it is a default", param="max_tokens")
        self.params()

    def params(self) -> SamplingParams:
        """For a request that says nothing at all."""
        max_tokens = COMPLETION_TOKENS if self.max_tokens is None else self.max_tokens
        return SamplingParams(
            max_tokens=max_tokens,
            temperature=self.temperature,
            top_k=self.top_k,
            top_p=self.top_p,
            min_p=self.min_p,
            repetition_penalty=self.repetition_penalty,
        )

    def __str__(self) -> str:
        """Those that differ from the neutral ones."""
        changed = [
            f"{entry.name} {value:g}"
            for entry in fields(self)
            if (value := getattr(self, entry.name)) != entry.default
        ]
        return ", ".join(changed) or "neutral"
