"""Traffic as a scheduler sees it: token ids, of which equal beginnings are shared, and what waits for what."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

from vivace.bench.traffic.prompt_text import TextEncoder
from vivace.bench.traffic.request import Message, Traffic, TrafficRequest
from vivace.engine.chat_template import encode_chat
from vivace.engine.tokenizer import Tokenizer
from vivace.schedule.prefix_index import chained_hash

FIRST_ANSWER_TOKEN = 1 << 24  # above every vocabulary: an answer that nobody quotes is equal to nothing


class WordEncoder:
    """A tokenizer of one token a word: a scenario's lengths are then exact, whatever model is planned for."""

    def __init__(self) -> None:
        self._ids: dict[str, int] = {}

    def encode(self, text: str, /) -> list[int]:
        ids = self._ids
        return [ids.setdefault(word, len(ids)) for word in text.split()]


@dataclass(frozen=True, slots=True, eq=False)
class TokenisedRequest:
    """`prompt` and `answer` are token ids; `hashes` name the whole blocks of both, as the prefix cache does."""

    asked: TrafficRequest
    prompt: array[int]
    answer: array[int]
    hashes: tuple[bytes, ...]

    @property
    def num_tokens(self) -> int:
        return len(self.prompt) + len(self.answer)


@dataclass(frozen=True, slots=True, eq=False)
class TokenisedTraffic:
    """Requests with the arrivals of `Traffic`, and what they share."""

    name: str
    requests: tuple[TokenisedRequest, ...]
    block_size: int

    def first(self, num_requests: int) -> TokenisedTraffic:
        """The first requests; each that waits for another comes after it."""
        if num_requests >= len(self.requests):
            return self
        return TokenisedTraffic(self.name, self.requests[:num_requests], self.block_size)

    @property
    def longest(self) -> int:
        """Tokens of the longest request, its answer included."""
        return max(one.num_tokens for one in self.requests)

    @property
    def num_blocks(self) -> int:
        """That hold all of it at once: a pool of so many never overwrites anything."""
        return sum(-(-one.num_tokens // self.block_size) for one in self.requests)

    @property
    def mean_prompt_len(self) -> float:
        return sum(len(one.prompt) for one in self.requests) / len(self.requests)

    @property
    def mean_answer_len(self) -> float:
        return sum(len(one.answer) for one in self.requests) / len(self.requests)

    @property
    def mean_cached_len(self) -> float:
        """Prompt tokens that earlier requests have computed, if none of them is forgotten."""
        seen: set[bytes] = set()
        cached = 0
        for one in self.requests:
            for block in one.hashes[: (len(one.prompt) - 1) // self.block_size]:
                if block not in seen:
                    break
                cached += self.block_size
            seen.update(one.hashes[: (one.num_tokens - 1) // self.block_size])  # the last token is never computed
        return cached / len(self.requests)


def tokenised(traffic: Traffic, encoder: TextEncoder, block_size: int) -> TokenisedTraffic:
    """With the tokens that `encoder` makes of texts. An answer that the next turn quotes has the quote's tokens."""
    prompts = [_prompt(request, encoder) for request in traffic.requests]
    following = {request.after: request.index for request in traffic.requests if request.after is not None}
    requests: list[TokenisedRequest] = []
    fresh = FIRST_ANSWER_TOKEN
    for request, prompt in zip(traffic.requests, prompts, strict=True):
        answer = _quoted(prompt, prompts[following[request.index]]) if request.index in following else array("i")
        answer = answer[: request.output_len]
        missing = request.output_len - len(answer)
        answer.extend(range(fresh, fresh + missing))
        fresh += missing
        requests.append(TokenisedRequest(request, prompt, answer, block_hashes(prompt + answer, block_size)))
    return TokenisedTraffic(traffic.name, tuple(requests), block_size)


def fixed_traffic(prompt_len: int, answer_len: int, cached_len: int, num_requests: int) -> Traffic:
    """Requests of one length that share the first `cached_len` tokens."""
    shared = tuple(range(cached_len))
    own_len = prompt_len - cached_len
    requests = tuple(
        TrafficRequest(
            index,
            prompt_len,
            answer_len,
            token_ids=shared + tuple(range(cached_len + index * own_len, cached_len + (index + 1) * own_len)),
        )
        for index in range(num_requests)
    )
    return Traffic(f"{prompt_len} tokens in, {answer_len} out", requests)


def block_hashes(tokens: array[int], block_size: int) -> tuple[bytes, ...]:
    """Of the whole blocks, each chained to the one before."""
    hashes: list[bytes] = []
    before = b""
    for end in range(block_size, len(tokens) + 1, block_size):
        before = chained_hash(before, tokens[end - block_size : end].tobytes())
        hashes.append(before)
    return tuple(hashes)


def _prompt(request: TrafficRequest, encoder: TextEncoder) -> array[int]:
    if request.token_ids is not None:
        return array("i", request.token_ids)
    if request.messages is not None:
        return array("i", _chat(request.messages, encoder))
    return array("i", encoder.encode(request.text or ""))


def _chat(messages: Sequence[Message], encoder: TextEncoder) -> Sequence[int]:
    if isinstance(encoder, Tokenizer) and encoder.chat_template is not None:
        return encode_chat(encoder, messages)
    return list(chain.from_iterable(encoder.encode(message["content"]) for message in messages))


def _quoted(prompt: array[int], following: array[int]) -> array[int]:
    """What the next prompt says behind this one: the answer, and then more."""
    return following[len(prompt) :] if following[: len(prompt)] == prompt else array("i")
