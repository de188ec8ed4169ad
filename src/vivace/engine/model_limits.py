"""What the engine must know of a model, and what it refuses because of it."""

from __future__ import annotations

from collections.abc import Sequence as Items
from dataclasses import dataclass

from vivace.core.errors import ContextLengthError, RequestError
from vivace.core.sampling import SamplingParams
from vivace.core.sequence import Pooling


@dataclass(frozen=True, slots=True)
class ModelLimits:
    """Token ids are checked against the vocabulary, and eos ends a sequence."""

    vocab_size: int
    eos_ids: frozenset[int]

    def check(self, prompt: Items[int], params: SamplingParams, pooling: Pooling | None, max_model_len: int) -> None:
        """Raise `RequestError` or `ContextLengthError` for a request that no engine of this model can serve."""
        if not prompt:
            raise RequestError("the prompt is empty: at least one token is needed", param="prompt")
        self.check_tokens("prompt", prompt)
        wanted = len(prompt) + (1 if params.max_tokens != 0 else 0)
        if wanted > max_model_len:
            raise ContextLengthError(
                f"the prompt has {len(prompt)} tokens and leaves no room in the context of "
                f"{max_model_len}; shorten it or raise max_model_len",
                param="prompt",
            )
        for name, ids in (("logit_bias", params.logit_bias), ("stop_token_ids", params.stop_token_ids)):
            if ids and max(ids) >= self.vocab_size:
                raise RequestError(f"{name} has a token id outside [0, {self.vocab_size})", param=name)
        if pooling is not None:
            _check_pooling(params)

    def check_tokens(self, name: str, tokens: Items[int]) -> None:
        """Raise `RequestError` where a token id is not one of the vocabulary."""
        if tokens and (min(tokens) < 0 or max(tokens) >= self.vocab_size):
            raise RequestError(f"{name} token ids must be in [0, {self.vocab_size})", param=name)


def _check_pooling(params: SamplingParams) -> None:
    if params.max_tokens != 0:
        raise RequestError("an embedding generates no token: max_tokens must be 0", param="max_tokens")
    if params.n != 1:
        raise RequestError("an embedding has one vector: n must be 1", param="n")
    if params.prompt_logprobs is not None:
        raise RequestError("an embedding has no prompt_logprobs: ask for them alone", param="prompt_logprobs")
