"""One continuation of a request: from its token events to its text and its end."""

from __future__ import annotations

from vivace.core.events import FinishReason, TokenEvent
from vivace.core.sampling import SamplingParams
from vivace.engine.detokenize import Detokenizer
from vivace.engine.tokenizer import Tokenizer


class Continuation:
    """Detokenises as events arrive, and ends where the engine or a stop string says so.

    `finish_reason` is None while it goes on. Once a stop string ended it (`found_stop_string`), the engine has to be
    told, and events which it sent before it knew are to be ignored.
    """

    __slots__ = ("_detokenizer", "_params", "finish_reason", "found_stop_string", "stop_reason")

    def __init__(self, tokenizer: Tokenizer | None, params: SamplingParams) -> None:
        """Without a tokenizer there is no text, and no stop string is found."""
        self._params = params
        self._detokenizer: Detokenizer | None = None
        if tokenizer is not None:
            self._detokenizer = Detokenizer(
                tokenizer,
                params.stop,
                params.include_stop_str_in_output,
                params.skip_special_tokens,
                min_tokens=params.min_tokens,
            )
        self.finish_reason: FinishReason | None = None
        self.stop_reason: int | str | None = None
        self.found_stop_string = False

    def push(self, event: TokenEvent) -> str:
        """New text after `event`. Call it only while `finish_reason` is None."""
        text = self._new_text(event)
        detokenizer = self._detokenizer
        if detokenizer is not None and detokenizer.stopped:  # also where the same token was the last for its length
            self.finish_reason, self.stop_reason = "stop", detokenizer.stop_string
            self.found_stop_string = True
        elif event.finish is not None:
            self.finish_reason, self.stop_reason = event.finish, event.stop_reason
        return text

    def _new_text(self, event: TokenEvent) -> str:
        detokenizer = self._detokenizer
        if detokenizer is None:
            return ""
        text = "" if event.token is None or self._is_hidden(event) else detokenizer.push((event.token,))
        return text + detokenizer.finish() if event.finish is not None and not detokenizer.stopped else text

    def _is_hidden(self, event: TokenEvent) -> bool:
        """A token that ended the continuation is no part of its text, unless it was asked for as a stop."""
        if event.finish != "stop":
            return False
        return not (self._params.include_stop_str_in_output and event.token in self._params.stop_token_ids)
