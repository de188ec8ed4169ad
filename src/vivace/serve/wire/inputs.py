"""Texts and token ids, one or several, as completions and embeddings take them."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from vivace.serve.wire.sampling import TokenId

Text = Annotated[str, Meta(min_length=1)]
Tokens = Annotated[list[TokenId], Meta(min_length=1)]


def several(limit: int) -> Meta:
    """For `list[Text | TokenId | Tokens]`. msgspec takes one kind of list in a union, so that routes check that all
    entries are of one kind; the schema says so."""
    return Meta(
        min_length=1,
        description=f"The token ids of one input; or up to {limit} inputs, each a text or its token ids.",
        extra_json_schema={
            "anyOf": [
                {"items": {"type": "integer"}},
                {"items": {"type": "string"}, "maxItems": limit},
                {"items": {"type": "array"}, "maxItems": limit},
            ]
        },
    )
