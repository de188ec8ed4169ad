"""Sequences for the tests of scheduling."""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from itertools import count

from vivace.core.sampling import SamplingParams
from vivace.core.sequence import Sequence

_arrivals = count()


def make_sequence(
    tokens: Iterable[int],
    *,
    max_tokens: int | None = 8,
    n: int = 1,
    priority: int = 0,
    salt: bytes = b"",
    use_prefix_cache: bool = True,
    seed: int = 0,
) -> Sequence:
    """A request as the engine would build it; arrivals count up in order of creation."""
    prompt = array("i", tokens)
    arrival = next(_arrivals)
    return Sequence(
        request_id=f"request-{arrival}",
        index=0,
        tokens=prompt,
        num_prompt=len(prompt),
        params=SamplingParams(max_tokens=max_tokens, n=n),
        seed=seed,
        arrival=arrival,
        priority=priority,
        cache_salt=salt,
        use_prefix_cache=use_prefix_cache,
        num_forks=n - 1,
    )


def make_fork(parent: Sequence, index: int) -> Sequence:
    """Another continuation of the parent's prompt, without its first token yet."""
    return Sequence(
        request_id=parent.request_id,
        index=index,
        tokens=parent.tokens[: parent.num_prompt],
        num_prompt=parent.num_prompt,
        params=parent.params,
        seed=parent.seed,
        arrival=parent.arrival,
        priority=parent.priority,
        cache_salt=parent.cache_salt,
        use_prefix_cache=parent.use_prefix_cache,
    )
