"""Traffic as data: what is asked, when, and how long the answer is. Who sends it is somebody else's matter."""

from __future__ import annotations

from dataclasses import dataclass, field

Message = dict[str, str]  # role and content, as in OpenAI's chat API


@dataclass(frozen=True, slots=True)
class TrafficRequest:
    """One request. Exactly one of `text`, `token_ids` and `messages` is the prompt.

    `arrival_s` counts from the start of the run; None in a closed loop, where a request goes out when a user is free.
    `after` is the index of an earlier request whose answer must have ended first: the next turn of a conversation or
    of an agent's loop, sent `think_s` later; its last message but one, the assistant's, then gets that answer's text
    (in a third turn, the first turn's answer stands as well: what was sent before is what goes on).
    """

    index: int
    prompt_len: int  # tokens, as counted by the tokenizer of the traffic or told by the trace
    output_len: int  # tokens of the answer: the end token is ignored
    text: str | None = None
    token_ids: tuple[int, ...] | None = None
    messages: tuple[Message, ...] | None = None
    arrival_s: float | None = None
    after: int | None = None
    think_s: float = 0.0
    cancel_after_s: float | None = None  # the client leaves so long after it sent the request


@dataclass(frozen=True, slots=True)
class Traffic:
    """Requests in the order in which they are sent. `concurrency`: users of a closed loop, None in an open one.

    A user of a closed loop takes the next request that follows no other, then those that follow it, then the next.
    """

    name: str
    requests: tuple[TrafficRequest, ...]
    seed: int = 0
    concurrency: int | None = None
    source: dict[str, object] = field(default_factory=dict)  # how it was made: for the record and the report
