"""What is remembered of the last requests, so that each can be explained to who made it. Bounded, and no text."""

from __future__ import annotations

import time
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Literal

from vivace.core.account import RequestAccount
from vivace.core.errors import OverloadedError
from vivace.serve.admission import Ticket
from vivace.worker.stream import TokenStream

MAX_REQUESTS = 1024
MAX_REFUSED = 256  # kept apart, so that a flood of refusals drives nobody else out
MAX_PROMPTS = 16  # of one request that are told of
# refused: 429; ended: its client left, its time was over, or an error
Status = Literal["waiting", "running", "finished", "refused", "ended"]


@dataclass(slots=True)
class PromptStory:
    """One prompt on its way. Seconds on the monotonic clock, None until it happened."""

    job_id: str
    arrived: float = field(default_factory=time.monotonic)
    prepared: float | None = None  # tokenised, and in the queue
    called: float | None = None  # its turn came
    ended: float | None = None
    finish_reason: str | None = None
    refusal: str | None = None  # what the client was told
    num_ahead: int = 0  # requests that waited when it joined them
    predicted_wait_s: float = 0.0
    delays: dict[str, float] = field(default_factory=dict)  # seconds, by what was short
    num_prompt_tokens: int = 0
    num_output_tokens: int = 0
    num_cached_tokens: int = 0
    num_restarts: int = 0
    submitted: float | None = None
    admitted: float | None = None
    first_token: float | None = None
    account: RequestAccount | None = None

    def has_turn(self, ticket: Ticket) -> None:
        """To be called when `Ticket.turn` has returned."""
        self.called = ticket.called
        self.num_ahead, self.predicted_wait_s, self.delays = ticket.num_ahead, ticket.predicted_wait_s, ticket.delays

    def follow(self, stream: TokenStream) -> None:
        """The engine has it. Its account may come after the stream's end."""
        self.submitted = stream.timings.arrival
        stream.when_accounted = self._take_account

    def note(self, stream: TokenStream) -> None:
        """What the stream knows by now."""
        self.num_cached_tokens, self.num_restarts = stream.num_cached_tokens, stream.num_restarts
        self.admitted, self.first_token = stream.timings.admitted, stream.timings.first_token

    def end(self, reason: str, error: BaseException | None = None) -> None:
        """`error` is what ended it, where something did."""
        self.ended, self.finish_reason = time.monotonic(), reason
        if isinstance(error, OverloadedError):
            self.refusal = str(error)

    @property
    def status(self) -> Status:
        if self.refusal is not None:
            return "refused"
        if self.ended is not None:
            return "ended" if self.finish_reason in ("abort", "error") else "finished"
        return "waiting" if self.called is None else "running"

    def _take_account(self, account: RequestAccount) -> None:
        self.account = account


@dataclass(slots=True)
class RequestStory:
    """`key` is the name of the API key that made it: nobody else is told."""

    request_id: str
    key: str
    num_prompts: int
    created: int  # seconds since 1970
    prompts: list[PromptStory] = field(default_factory=list)


class RequestBook:
    """The stories of the last requests by id: of those that were let in, and of those that were refused."""

    def __init__(self, max_requests: int = MAX_REQUESTS, max_refused: int = MAX_REFUSED) -> None:
        self.max_requests = max_requests
        self.max_refused = max_refused
        self._stories: OrderedDict[str, RequestStory] = OrderedDict()
        self._refused: OrderedDict[str, RequestStory] = OrderedDict()

    def __len__(self) -> int:
        return len(self._stories)

    def add(self, story: RequestStory) -> None:
        self._stories[story.request_id] = story
        if len(self._stories) > self.max_requests:
            self._stories.popitem(last=False)

    def refuse(self, story: RequestStory, refusal: OverloadedError, num_ahead: int) -> None:
        """Nothing of the request was let in; `num_ahead` waited."""
        self._stories.pop(story.request_id, None)
        prompt = story.prompts[0] if story.prompts else PromptStory(story.request_id)
        prompt.num_ahead = num_ahead
        prompt.end("error", refusal)
        story.prompts = [prompt]
        self._refused[story.request_id] = story
        if len(self._refused) > self.max_refused:
            self._refused.popitem(last=False)

    def find(self, request_id: str, key: str) -> RequestStory | None:
        """The story of this key's request, also by its answer's id (`chatcmpl-…`, `cmpl-…`, `resp_…`)."""
        name = "req-" + request_id.replace("_", "-").rpartition("-")[2]
        story = self._stories.get(name) or self._refused.get(name)
        return story if story is not None and story.key == key and story.prompts else None
