"""The continuations of a request: sequences that share nothing mutable, and how one without a token ends."""

from __future__ import annotations

from array import array
from collections.abc import Sequence as Items

from vivace.core.constraint import TokenConstraint
from vivace.core.errors import RequestError
from vivace.core.events import FinishReason
from vivace.core.sequence import Sequence
from vivace.engine.model_limits import ModelLimits


def continued(sequence: Sequence, emitted: Items[Items[int] | None], limits: ModelLimits) -> list[Sequence]:
    """The unfinished continuations with their tokens; the whole request where it has no token yet."""
    unfinished = {index: tokens for index, tokens in enumerate(emitted) if tokens is not None}
    if len(emitted) != sequence.params.n or not unfinished:
        raise RequestError(
            f"emitted must list n = {sequence.params.n} continuations, at least one of them not None",
            param="emitted",
        )
    for tokens in unfinished.values():
        limits.check_tokens("emitted", tokens)
        if tokens and sequence.num_prompt + len(tokens) >= sequence.max_len:
            raise RequestError("a continuation in emitted has all its tokens: it has ended", param="emitted")
    if len(unfinished) == len(emitted) and not any(unfinished.values()):
        return [sequence]
    sequence.num_forks = 0
    continuations = [continuation(sequence, index) for index in unfinished]
    for one, tokens in zip(continuations, unfinished.values(), strict=True):
        one.tokens.extend(tokens)
    return continuations


def end_without_token(constraint: TokenConstraint | None) -> tuple[FinishReason, str | None]:
    """Why no token could be drawn."""
    if constraint is None:
        return "error", "the model's logits are not finite"
    if constraint.is_complete:  # and the vocabulary has no token that says so
        return "stop", None
    return "error", constraint.failure or "the constraint, logit_bias and min_tokens together leave no token"


def continuation(parent: Sequence, index: int) -> Sequence:
    """Another continuation of a computed prompt; it shares nothing mutable with its parent."""
    return Sequence(
        request_id=parent.request_id,
        index=index,
        tokens=array("i", parent.tokens),
        num_prompt=parent.num_prompt,
        params=parent.params,
        seed=parent.seed,
        arrival=parent.arrival,
        priority=parent.priority,
        cache_salt=parent.cache_salt,
        max_len=parent.max_len,
        stop_ids=parent.stop_ids,
        use_prefix_cache=parent.use_prefix_cache,
        num_cached=parent.num_cached,
    )
