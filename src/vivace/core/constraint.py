"""What the sampler asks of a constraint on one continuation. Who compiles it is the engine's business."""

from __future__ import annotations

from typing import Protocol


class TokenConstraint(Protocol):
    """Follows one continuation token by token. Its state is a function of the tokens that it accepted."""

    @property
    def failure(self) -> str | None:
        """Why it gave up: its limits were reached, or it was given a token that it had not allowed."""
        ...

    @property
    def is_complete(self) -> bool:
        """The text is whole and nothing may follow it."""
        ...

    def allowed_tokens(self) -> bytes:
        """Which tokens may come next: bit b of byte i is token 8 i + b, in whole words of four bytes. Tokens past
        the end are not allowed; after a failure it is empty."""
        ...

    def look_ahead(self, guesses: list[int]) -> int:
        """How many of the guesses may follow one another from here, none of them the last of the text. Nothing is
        accepted."""
        ...

    def allowed_ahead(self, num_guesses: int) -> bytes:
        """As `allowed_tokens`, behind so many (1 at least) of the guesses that the last `look_ahead` let pass."""
        ...

    def accept(self, token: int) -> None:
        """The continuation got this token."""
        ...
