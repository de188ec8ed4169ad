"""Log probabilities as clients read them: the legacy shape, that of chats, and vLLM's for prompts."""

from __future__ import annotations

from collections.abc import Sequence

from vivace.core.events import TokenLogprobs
from vivace.engine.tokenizer import Tokenizer
from vivace.serve.wire.chat import ChoiceLogprobs, TokenLogprob, TopLogprob
from vivace.serve.wire.completions import LegacyLogprobs, PromptLogprob, PromptLogprobs

MIN_LOGPROB = -9999.0  # JSON has no minus infinity; vLLM writes this number


class LogprobShapes:
    """Without a tokenizer, tokens are named by their ids."""

    def __init__(self, tokenizer: Tokenizer | None) -> None:
        self._tokenizer = tokenizer

    def token_bytes(self, token_id: int) -> bytes:
        return self._tokenizer.token_bytes(token_id) if self._tokenizer else f"token_id:{token_id}".encode()

    def token_name(self, token_id: int) -> str:
        """A token's text. Bytes that are no text alone get OpenAI's form, so that no two tokens share a name."""
        value = self.token_bytes(token_id)
        try:
            return value.decode()
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in value)

    def chat(self, logprobs: Sequence[TokenLogprobs], num_top: int) -> ChoiceLogprobs:
        return ChoiceLogprobs([self._chat_token(entry, num_top) for entry in logprobs])

    def prompt(self, logprobs: Sequence[TokenLogprobs | None]) -> PromptLogprobs:
        return [None if entry is None else self._ranked(entry) for entry in logprobs]

    def _chat_token(self, entry: TokenLogprobs, num_top: int) -> TokenLogprob:
        value = self.token_bytes(entry.token)
        top = []
        for token_id, logprob in zip(entry.top_ids[:num_top], entry.top_logprobs, strict=False):
            top_bytes = self.token_bytes(token_id)
            top.append(TopLogprob(top_bytes.decode(errors="replace"), _finite(logprob), list(top_bytes)))
        return TokenLogprob(value.decode(errors="replace"), _finite(entry.logprob), list(value), top)

    def _ranked(self, entry: TokenLogprobs) -> dict[str, PromptLogprob]:
        """The token's own probability first, then the most likely ones."""
        ranked = {str(entry.token): PromptLogprob(_finite(entry.logprob), entry.rank, self.token_name(entry.token))}
        for place, (token_id, logprob) in enumerate(zip(entry.top_ids, entry.top_logprobs, strict=True), 1):
            ranked.setdefault(str(token_id), PromptLogprob(_finite(logprob), place, self.token_name(token_id)))
        return ranked


class LegacyRow:
    """The legacy shape of one choice, a piece at a time: it counts on where each token's text begins."""

    def __init__(self, shapes: LogprobShapes, tokenizer: Tokenizer | None, num_top: int) -> None:
        self._shapes = shapes
        self._num_top = num_top
        self._texts = tokenizer.stream(skip_special=True) if tokenizer else None
        self._offset = 0

    def extend(self, token_ids: Sequence[int], logprobs: Sequence[TokenLogprobs | None]) -> LegacyLogprobs:
        row = LegacyLogprobs([], [], [], [])
        for token_id, entry in zip(token_ids, logprobs, strict=False):
            row.tokens.append(self._shapes.token_name(token_id))
            row.text_offset.append(self._offset)
            row.token_logprobs.append(None if entry is None else _finite(entry.logprob))
            row.top_logprobs.append(None if entry is None else self._top(entry))
            self._offset += len(self._texts.push((token_id,))) if self._texts else 0
        return row

    def _top(self, entry: TokenLogprobs) -> dict[str, float]:
        """The most likely tokens, and the one that came even where it is not among them."""
        top: dict[str, float] = {}
        for token_id, logprob in zip(entry.top_ids[: self._num_top], entry.top_logprobs, strict=False):
            top.setdefault(self._shapes.token_name(token_id), _finite(logprob))
        top.setdefault(self._shapes.token_name(entry.token), _finite(entry.logprob))
        return top


def _finite(logprob: float) -> float:
    return max(logprob, MIN_LOGPROB)
