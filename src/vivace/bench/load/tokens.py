"""When each token of a stream came, from pieces that do not always say how many they bring."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Piece:
    """An event with a choice. `total`: tokens of the answer so far, where the server tells with every event."""

    when: float
    num_characters: int
    total: int | None = None


def token_times(pieces: Sequence[Piece], num_tokens: int | None, ended: float) -> tuple[float, ...]:
    """One moment a token. `num_tokens` is the server's own count at the end, None where it gives none.

    With totals in every piece, each token has the time of the piece that first counted it. Without them a piece with
    text is a token, and the final count corrects that: missing tokens are given to pieces in proportion to their
    text, of pieces too many some count as the rest of a token.
    """
    texts = [piece for piece in pieces if piece.num_characters]
    if any(piece.total for piece in pieces) and all(piece.total is not None for piece in texts):
        times = _counted(pieces)
    elif num_tokens is None or num_tokens == len(texts) or not texts:
        times = [piece.when for piece in texts]
    elif num_tokens > len(texts):
        times = _shared_out(texts, num_tokens)
    else:
        times = _thinned(texts, num_tokens)
    if num_tokens is not None:
        last = times[-1] if times else ended
        times = times[:num_tokens] + [last] * (num_tokens - len(times))
    return tuple(times)


def _counted(pieces: Sequence[Piece]) -> list[float]:
    times: list[float] = []
    for piece in pieces:
        times += [piece.when] * ((piece.total or 0) - len(times))
    return times


def _shared_out(texts: Sequence[Piece], num_tokens: int) -> list[float]:
    """At least one token a piece; the rest by length, rounded so that the sum is right."""
    rest, num_characters = num_tokens - len(texts), sum(piece.num_characters for piece in texts)
    times: list[float] = []
    seen = 0
    for number, piece in enumerate(texts, 1):
        seen += piece.num_characters
        times += [piece.when] * (number + round(rest * seen / num_characters) - len(times))
    return times


def _thinned(texts: Sequence[Piece], num_tokens: int) -> list[float]:
    """The first piece and the last, and as many between them as there are tokens."""
    last = len(texts) - 1
    return [texts[round(number * last / max(num_tokens - 1, 1))].when for number in range(num_tokens)]
