"""How many tokens a chat's prompt has."""

from __future__ import annotations

from collections.abc import Sequence

from vivace.bench.traffic.prompt_text import TextEncoder
from vivace.bench.traffic.request import Message
from vivace.engine.chat_template import encode_chat
from vivace.engine.tokenizer import Tokenizer


def chat_len(encoder: TextEncoder, messages: Sequence[Message]) -> int:
    """Tokens of `messages` with the model's chat template; where it is not known, of their contents alone."""
    if isinstance(encoder, Tokenizer) and encoder.chat_template is not None:
        return len(encode_chat(encoder, messages))
    return sum(len(encoder.encode(message["content"])) for message in messages)
