"""From a request of the traffic to token ids, and from an answer back to the text of the next turn."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from vivace.bench.traffic.request import Message, Traffic, TrafficRequest
from vivace.engine.chat_template import encode_chat
from vivace.engine.tokenizer import Tokenizer

# For models whose tokenizer has no template: roles in words, as base models have seen them.
PLAIN_TEMPLATE = (
    "{% for message in messages %}{{ message['role'] + ': ' + message['content'] + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)


@dataclass(frozen=True, slots=True)
class PromptReader:
    """`is_own`: the tokenizer is the model's. Another one's gives random weights prompts of the right length, and
    answers that it cannot read: the next turn then keeps the answer that the traffic has."""

    tokenizer: Tokenizer
    max_model_len: int
    vocab_size: int
    is_own: bool = True

    def token_ids(self, request: TrafficRequest) -> list[int]:
        """At most what leaves room for the answer; the beginning stays, where shared prompts are."""
        if request.token_ids is not None:
            found = list(request.token_ids)
        elif request.messages is not None:
            found = encode_chat(self.tokenizer, request.messages, template=self._template)
        else:
            found = self.tokenizer.encode(request.text or "")
        found = found[: max(1, self.max_model_len - request.output_len)] or [0]
        return found if self.is_own else [token % self.vocab_size for token in found]

    def with_answer(self, request: TrafficRequest, answer: list[int]) -> TrafficRequest:
        """The next turn, with what the model said in the place of the assistant's last message."""
        messages = request.messages
        if not self.is_own or messages is None or len(messages) < 2 or messages[-2].get("role") != "assistant":
            return request
        spoken: Message = {**messages[-2], "content": self.tokenizer.decode(answer)}
        return replace(request, messages=(*messages[:-2], spoken, messages[-1]))

    @property
    def _template(self) -> str | None:
        return None if self.tokenizer.chat_template is not None else PLAIN_TEMPLATE


def openings(traffic: Traffic, count: int) -> Traffic:
    """`count` requests for one user alone: conversations from their beginning, one after the other."""
    chosen: dict[int, TrafficRequest] = {}
    turns: Mapping[int, list[TrafficRequest]] = _turns(traffic)
    for request in traffic.requests:
        if request.after is None:
            for turn in turns[request.index]:
                if len(chosen) < count:
                    chosen[turn.index] = turn
    return replace(traffic, requests=tuple(chosen.values()), concurrency=1)


def abreast(traffic: Traffic, count: int, users: int) -> Traffic:
    """`count` requests of as many conversations as there are users: all first turns, then the next ones."""
    conversations = sorted(_turns(traffic).items())
    at_once, later = conversations[:users], conversations[users:]
    longest = max(len(turns) for _, turns in at_once)
    waves = [turns[place] for place in range(longest) for _, turns in at_once if place < len(turns)]
    waves += [turn for _, turns in later for turn in turns]
    return replace(traffic, requests=tuple(waves[:count]))


def _turns(traffic: Traffic) -> dict[int, list[TrafficRequest]]:
    """The requests of each conversation, by the index of its first."""
    root: dict[int, int] = {}
    found: dict[int, list[TrafficRequest]] = {}
    for request in traffic.requests:
        first = request.index if request.after is None else root.get(request.after, request.index)
        root[request.index] = first
        found.setdefault(first, []).append(request)
    return found
