"""POST /v1/embeddings."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Raw, Struct

from vivace.serve.wire.inputs import Text, Tokens, several
from vivace.serve.wire.sampling import Name, Priority, Request, Timeout, TokenId

MAX_INPUTS = 2_048  # OpenAI's own bound
MAX_DIMENSIONS = 65_536


class EmbeddingRequest(Request):
    """`pooling`: the mean of all tokens' states or the state of the last one. `normalize`: to length 1.

    `dimensions` can only be the model's own: a vector is cut only where the model was trained for it.
    """

    input: Text | Annotated[list[Text | TokenId | Tokens], several(MAX_INPUTS)]
    model: Name | None = None
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Annotated[int, Meta(ge=1, le=MAX_DIMENSIONS)] | None = None
    user: Name | None = None
    # beyond OpenAI's
    pooling: Literal["mean", "last"] | None = None
    normalize: bool | None = None
    priority: Priority | None = None
    timeout: Timeout | None = None


class Embedding(Struct):
    """`embedding` is a list of numbers, or the base64 of little-endian float32 values."""

    index: int
    embedding: list[float] | str
    object: Literal["embedding"] = "embedding"


class EmbeddingUsage(Struct):
    prompt_tokens: int
    total_tokens: int


class EmbeddingResponse(Struct):
    data: list[Embedding]
    model: str
    usage: EmbeddingUsage
    object: Literal["list"] = "list"


class EncodedEmbeddingResponse(Struct):
    """The same with `data` already encoded: 2,048 vectors in one piece would hold up the event loop for a second."""

    data: list[Raw]
    model: str
    usage: EmbeddingUsage
    object: Literal["list"] = "list"
