"""One streamed answer: read as it comes, judged when it is over."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import msgspec

from vivace.bench.load.events import EventParser
from vivace.bench.load.tokens import Piece, token_times
from vivace.bench.load.wire import Choice, Chunk, ErrorBody, Timings, Usage
from vivace.core.errors import TargetError

REFUSALS = (429, 503)
MAX_BODY_BYTES = 1 << 20  # of an answer that is no stream
MAX_MESSAGE_LEN = 300

Outcome = Literal["ok", "refused", "error"]

_chunk = msgspec.json.Decoder(Chunk)
_error_body = msgspec.json.Decoder(ErrorBody)


class StreamedAnswer:
    """A sink for one response. `on_tokens(when, number)` is told of tokens as they come, `number` a first guess."""

    def __init__(self, on_tokens: Callable[[float, int], None] | None = None) -> None:
        self.status = 0
        self.headers: dict[str, str] = {}
        self.text_parts: list[str] = []
        self._on_tokens = on_tokens
        self._events: EventParser | None = None
        self._body = b""
        self._pieces: list[Piece] = []
        self._total = 0
        self._usage: Usage | None = None
        self._timings: Timings | None = None
        self._error: str | None = None
        self._is_whole = False
        self.ended: float | None = None

    def begin(self, status: int, headers: dict[str, str]) -> None:
        self.status, self.headers = status, headers
        if status == 200 and headers.get("content-type", "").startswith("text/event-stream"):
            self._events = EventParser()

    def receive(self, when: float, data: bytes) -> None:
        if self._events is None:
            if len(self._body) < MAX_BODY_BYTES:
                self._body += data
            return
        try:
            for event in self._events.feed(data):
                self._take(when, event.name, event.data)
        except TargetError as error:
            self._error = self._error or str(error)

    def end(self, when: float) -> None:
        self.ended = when

    def _take(self, when: float, name: str, data: bytes) -> None:
        if data == b"[DONE]":
            self._is_whole = True
            return
        try:
            chunk = _chunk.decode(data)
        except msgspec.DecodeError:
            self._error = self._error or f"an event of the stream is not understood: {_excerpt(data)}"
            return
        if name == "error" or chunk.error is not None:
            self._error = self._error or f"the stream ended in an error: {_message(data)}"
            return
        self._usage = chunk.usage or self._usage
        self._timings = chunk.timings or self._timings
        if chunk.choices:
            self._add(when, chunk, chunk.choices[0])

    def _add(self, when: float, chunk: Chunk, choice: Choice) -> None:
        self._is_whole = self._is_whole or bool(choice.finish_reason)
        num_characters = choice.num_characters
        total = _running_total(chunk)
        if total is None and choice.token_ids is not None:
            total = self._total + len(choice.token_ids)
        if choice.text or (choice.delta is not None and choice.delta.content):
            self.text_parts.append(choice.text or (choice.delta.content if choice.delta else None) or "")
        self._pieces.append(Piece(when, num_characters, total))
        number = total - self._total if total is not None else int(num_characters > 0)
        if number > 0:
            self._total += number
            if self._on_tokens is not None:
                self._on_tokens(when, number)

    @property
    def text(self) -> str:
        return "".join(self.text_parts)

    @property
    def num_tokens(self) -> int | None:
        """As the server counts them; None where it does not."""
        if self._usage is not None and self._usage.completion_tokens is not None:
            return self._usage.completion_tokens
        return self._timings.predicted_n if self._timings is not None else None

    @property
    def num_prompt_tokens(self) -> int | None:
        return None if self._usage is None else self._usage.prompt_tokens

    @property
    def num_cached_tokens(self) -> int | None:
        details = None if self._usage is None else self._usage.prompt_tokens_details
        if details is not None and details.cached_tokens is not None:
            return details.cached_tokens
        return None if self._timings is None else self._timings.cache_n

    @property
    def queue_s(self) -> float | None:
        queue_ms = None if self._timings is None else self._timings.queue_ms
        return None if queue_ms is None else queue_ms / 1e3

    def token_s(self, ended: float) -> tuple[float, ...]:
        """When each token came; those that only the final count knows of came with the last one."""
        return token_times(self._pieces, self.num_tokens if self.ended is not None else None, ended)

    def outcome(self) -> tuple[Outcome, str | None]:
        """Of an answer that is over, with what was wrong. What stands before the first colon is the kind of it."""
        if self.status in REFUSALS:
            after = self.headers.get("retry-after")
            when = "" if after is None else f" (come again in {_excerpt(after.encode())} s)"
            return "refused", f"refused with {self.status}: {_message(self._body)}{when}"
        if self.status != 200:
            return "error", f"answered with {self.status}: {_message(self._body)}"
        if self._error is not None:
            return "error", self._error
        if self._events is None:
            kind = self.headers.get("content-type", "no content type")
            return "error", f"no stream of events came: {_excerpt(kind.encode())}"
        if not self._pieces:
            return "error", "the stream had no tokens"
        if not self._is_whole:  # a proxy closes neatly what its server broke off
            return "error", "the stream broke off: neither a finish reason nor [DONE] came"
        return "ok", None


def _running_total(chunk: Chunk) -> int | None:
    if chunk.usage is not None and chunk.usage.completion_tokens is not None:
        return chunk.usage.completion_tokens
    return chunk.timings.predicted_n if chunk.timings is not None else None


def _message(body: bytes) -> str:
    """What an error's body says, whoever wrote it."""
    try:
        parsed = _error_body.decode(body)
    except msgspec.DecodeError:
        return _excerpt(body)
    error = parsed.error
    if isinstance(error, dict):
        error = error.get("message")
    return _excerpt(str(error or parsed.message or parsed.detail or body.decode("utf-8", "replace")).encode())


def _excerpt(data: bytes) -> str:
    """Printable, on one line, not long."""
    text = " ".join(data[: 4 * MAX_MESSAGE_LEN].decode("utf-8", "replace").split())
    shown = "".join(character if character.isprintable() else "�" for character in text)
    return shown if len(shown) <= MAX_MESSAGE_LEN else shown[:MAX_MESSAGE_LEN] + "…"
