"""What the user asks of speculative decoding."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

from vivace.core.errors import ConfigError
from vivace.core.nearest_name import nearest_name

SpeculationMethod = Literal["ngram", "draft_model", "medusa"]
AcceptanceRule = Literal["exact", "typical"]

MAX_SPECULATIVE_TOKENS = 32


@dataclass(frozen=True, slots=True)
class SpeculativeConfig:
    """Guess tokens cheaply, verify them in one step; the text stays what it is without.

    `method`: `ngram` continues an earlier occurrence of the last `prompt_lookup_min` or more tokens in prompt and
    output; `draft_model` asks the small model `model`, which must have the same vocabulary; `medusa` asks the heads
    in the folder `model` (default: those of the embedded model), whose guesses form a tree. At most
    `num_speculative_tokens` are guessed for a sequence in a step; with `adaptive` a measured cost model chooses how
    many, none included.

    `acceptance`: `exact` keeps the text what it is without; `typical` (Cai et al., 2024) also lets a guess stand
    whose probability at the request's temperature is above min(posterior_threshold, posterior_alpha * exp(-entropy)).
    That is faster and another distribution; requests at temperature 0 are exact either way.
    """

    method: SpeculationMethod
    model: str | None = None
    num_speculative_tokens: int = 5
    prompt_lookup_min: int = 3
    adaptive: bool = True
    acceptance: AcceptanceRule = "exact"
    posterior_threshold: float = 0.09
    posterior_alpha: float = 0.3

    def __post_init__(self) -> None:
        if self.method not in get_args(SpeculationMethod):
            known = ", ".join(get_args(SpeculationMethod))
            raise ConfigError(f"method of speculative_config must be one of {known}, not {self.method!r}")
        if self.method != "medusa" and (self.model is not None) != (self.method == "draft_model"):
            raise ConfigError(f"speculation by {self.method} {'needs a' if self.model is None else 'takes no'} model")
        for name, most in (("num_speculative_tokens", MAX_SPECULATIVE_TOKENS), ("prompt_lookup_min", 1024)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
                raise ConfigError(f"{name} of speculative_config must be from 1 to {most}, not {value!r}")
        if not isinstance(self.adaptive, bool):
            raise ConfigError(f"adaptive of speculative_config must be true or false, not {self.adaptive!r}")
        self._check_acceptance()

    def _check_acceptance(self) -> None:
        if self.acceptance not in get_args(AcceptanceRule):
            known = ", ".join(get_args(AcceptanceRule))
            raise ConfigError(f"acceptance of speculative_config must be one of {known}, not {self.acceptance!r}")
        for name in ("posterior_threshold", "posterior_alpha"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= 1:
                raise ConfigError(f"{name} of speculative_config must be above 0, 1 at most, not {value!r}")

    @classmethod
    def parse(cls, value: object) -> SpeculativeConfig | None:
        """From a mapping or its JSON text, as the command line and vivace.toml have it. None stays None."""
        if value is None or isinstance(value, cls):
            return value
        if isinstance(value, str):
            try:
                value = json.loads(value)
            except ValueError as error:
                raise ConfigError(f"speculative_config {value!r} is not JSON ({error}): give {_EXAMPLE}") from None
        if not isinstance(value, Mapping):
            raise ConfigError(f"speculative_config must be an object, as in {_EXAMPLE}, not {value!r}")
        return cls._from_mapping(value)

    @classmethod
    def _from_mapping(cls, values: Mapping[str, Any]) -> SpeculativeConfig:
        known = [field.name for field in fields(cls)]
        for key in values:
            if key not in known:
                raise ConfigError(f"unknown key {key!r} in speculative_config{nearest_name(key, known)}")
        if "method" not in values:
            raise ConfigError(f"speculative_config needs a method: {_EXAMPLE}")
        return cls(**values)


_EXAMPLE = """'{"method": "ngram", "num_speculative_tokens": 5}'"""
