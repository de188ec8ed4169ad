"""Whether two models speak of the same tokens."""

from __future__ import annotations

from vivace.engine.llm import LLM


def vocabulary_difference(llm: LLM, reference: LLM, text: str) -> str | None:
    """Why distributions of the two cannot be compared token by token; None where they can."""
    size, other_size = llm.loaded.spec.vocab_size, reference.loaded.spec.vocab_size
    if size != other_size:
        return f"the models have different vocabularies ({size} and {other_size} tokens)"
    tokenizer, other = llm.tokenizer, reference.tokenizer
    for token_id in range(size):
        if tokenizer.token_bytes(token_id) != other.token_bytes(token_id):
            return f"the models have different vocabularies (token {token_id} is not the same in both)"
    if (tokenizer.add_bos and tokenizer.bos_id) != (other.add_bos and other.bos_id):
        return "one model's text begins with another token (BOS) than the other's"
    if tokenizer.encode(text) != other.encode(text):
        return "the models cut this text into different tokens"
    return None
