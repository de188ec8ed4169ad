"""Random text under a constraint: what a model with uniform logits writes."""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np

from vivace.engine.structured_output import CompiledConstraint
from vivace.engine.tokenizer import Tokenizer


def token_ids(mask: bytes) -> list[int]:
    """Ids whose bit is set."""
    bits = np.unpackbits(np.frombuffer(mask, np.uint8), bitorder="little")
    return [int(token) for token in np.flatnonzero(bits)]


def random_text(
    tokenizer: Tokenizer,
    compiled: CompiledConstraint,
    generator: random.Random,
    *,
    max_tokens: int = 300,
    weight: Callable[[bytes], float] = lambda piece: 1.0 / (1 + len(piece)) ** 2,
) -> tuple[str, bool]:
    """Draws allowed tokens until the constraint is complete or an end token is drawn; whether that came to pass."""
    constraint = compiled.begin()
    drawn: list[int] = []
    while len(drawn) < max_tokens:
        ids = token_ids(constraint.allowed_tokens())
        assert constraint.failure is None, constraint.failure
        assert ids, f"nothing may follow {tokenizer.decode(drawn)!r}"
        ends = [one for one in ids if one in tokenizer.eos_ids]
        if ends and generator.random() < 0.3:
            return tokenizer.decode(drawn, continuation=True), True
        ids = [one for one in ids if one not in tokenizer.eos_ids] or ids
        token = generator.choices(ids, [weight(tokenizer.token_bytes(one)) for one in ids])[0]
        if token in tokenizer.eos_ids:
            return tokenizer.decode(drawn, continuation=True), True
        drawn.append(token)
        constraint.accept(token)
        if constraint.is_complete:
            return tokenizer.decode(drawn, continuation=True), True
    return tokenizer.decode(drawn, continuation=True), False
