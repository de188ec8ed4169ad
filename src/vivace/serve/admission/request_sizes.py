"""How large a request will be, learned from those before it."""

from __future__ import annotations

from math import ceil

from vivace.serve.admission.demand import Demand
from vivace.serve.admission.limits import EngineCapacity

DEFAULT_BYTES_PER_TOKEN = 3.0  # English text has about 4 bytes a token; too many tokens is the safer guess
DEFAULT_OUTPUT_LEN = 256.0
MEMORY = 0.05  # the weight of the newest request: the last 20 or so count
CACHE_MEMORY = 0.2  # whether prompts have a beginning in common changes with a new client


class RequestSizes:
    """Running estimates: bytes a prompt token, tokens a continuation, the share of prompts that the cache holds."""

    def __init__(self, engine: EngineCapacity) -> None:
        self._engine = engine
        self._bytes = DEFAULT_BYTES_PER_TOKEN
        self._tokens = 1.0
        self._output_len = DEFAULT_OUTPUT_LEN
        self._output_deviation = 0.0
        self._cached_share = 0.0

    @property
    def bytes_per_token(self) -> float:
        return self._bytes / self._tokens

    def estimate(self, num_bytes: int, max_tokens: int | None, n: int) -> Demand:
        """The demand of a request of which only its length in bytes is known.

        No more than the context holds: a longer prompt is refused once it is measured, and must not keep others out
        until then.
        """
        room = self._engine.max_model_len
        num_prompt_tokens = min(ceil(num_bytes / self.bytes_per_token), room)
        max_new_tokens = room if max_tokens is None else min(max_tokens, room)
        return self.demand(num_prompt_tokens, max_new_tokens, n)

    def demand(self, num_prompt_tokens: int, max_new_tokens: int, n: int, num_known: int | None = None) -> Demand:
        """The demand of a request. `num_known` tokens of its prompt need no computing; None: as usual of late."""
        likely = min(max_new_tokens, self._output_len)
        ample = min(max_new_tokens, self._output_len + 2 * self._output_deviation)
        computed = num_prompt_tokens * (1.0 - self._cached_share)
        if num_known is not None:
            computed = float(num_prompt_tokens - num_known)
        prompt_blocks = self._blocks(computed)
        return Demand(
            num_requests=1,
            num_sequences=n,
            num_prompt_tokens=num_prompt_tokens,
            computed_tokens=computed,
            new_tokens=n * likely,
            prompt_blocks=prompt_blocks,
            blocks=prompt_blocks + n * self._blocks(ample),
            worst_blocks=self._blocks(num_prompt_tokens) + n * self._blocks(max_new_tokens),
        )

    def learn_prompt(self, num_bytes: int, num_prompt_tokens: int) -> None:
        """Forgets by size, so that ten small requests do not outweigh a large one."""
        if num_bytes and num_prompt_tokens:
            self._bytes += num_bytes
            self._tokens += num_prompt_tokens
            forget = 1.0 - MEMORY
            self._bytes *= forget
            self._tokens *= forget

    def learn_cached(self, num_prompt_tokens: float, num_cached_tokens: int) -> None:
        if num_prompt_tokens:
            self._cached_share += CACHE_MEMORY * (
                min(num_cached_tokens / num_prompt_tokens, 1.0) - self._cached_share
            )

    def learn_output(self, output_len: float, max_new_tokens: int) -> None:
        """A continuation ended. One that was cut short says only that it could have been longer."""
        if output_len >= max_new_tokens and output_len < self._output_len:
            return
        error = output_len - self._output_len
        self._output_len += MEMORY * error
        self._output_deviation += MEMORY * (abs(error) - self._output_deviation)

    def _blocks(self, num_tokens: float) -> int:
        return ceil(num_tokens / self._engine.block_size)
