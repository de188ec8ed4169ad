"""The traffic that candidates are judged by, cut to what there is time for."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random

from vivace.bench.traffic.arrivals import arrivals
from vivace.bench.traffic.prompt_text import PromptText
from vivace.bench.traffic.replay import replay
from vivace.bench.traffic.request import Traffic, TrafficRequest
from vivace.bench.traffic.scenario import SCENARIOS, make_traffic
from vivace.bench.traffic.traces.trace import read_trace
from vivace.core.errors import ConfigError
from vivace.core.nearest_name import nearest_name
from vivace.optimize.prompts import PromptReader, abreast, openings

DEFAULT_WORKLOAD = "chat"
TRACE_PREFIX = "trace:"
MOST_REQUESTS, LEAST_REQUESTS = 128, 8
FEW_REQUESTS = 32  # of fewer, half are conversations: else two users would be all there are
MOST_USERS = 64
ALONE_SHARE = 1 / 8  # of the requests: for one user alone
WARM_UP_TOKENS = 48


@dataclass(frozen=True, slots=True)
class Workload:
    """`crowd` is all users at once, in a closed loop; `alone` one user, with prompts of its own."""

    name: str
    reader: PromptReader
    crowd: Traffic
    alone: Traffic

    @property
    def num_requests(self) -> int:
        return len(self.crowd.requests)

    @property
    def users(self) -> int:
        return self.crowd.concurrency or self.num_requests

    @property
    def longest_tokens(self) -> int:
        """Prompt and answer of the largest request; an eighth more, because answers are encoded anew."""
        longest = max(one.prompt_len + one.output_len for one in (*self.crowd.requests, *self.alone.requests))
        return min(self.reader.max_model_len, math.ceil(longest * 9 / 8))

    @property
    def prompt_len(self) -> float:
        return sum(one.prompt_len for one in self.crowd.requests) / self.num_requests

    @property
    def output_len(self) -> float:
        return sum(one.output_len for one in self.crowd.requests) / self.num_requests

    @property
    def repeated_len(self) -> float:
        """Tokens of a prompt that an earlier turn has, on average."""
        by_index = {one.index: one for one in self.crowd.requests}
        before = [by_index[one.after] for one in self.crowd.requests if one.after in by_index]
        return sum(one.prompt_len + one.output_len for one in before) / self.num_requests

    @property
    def digest(self) -> str:
        """Tells it from any other: a file of requests may change and keep its name."""
        requests = repr((self.crowd.requests, self.crowd.concurrency, self.alone.requests))
        return hashlib.sha256(requests.encode()).hexdigest()

    def part(self, share: float) -> Workload:
        """The first requests of each kind."""
        if share >= 1:
            return self
        crowd = self.crowd.requests[: max(2, math.ceil(share * len(self.crowd.requests)))]
        alone = self.alone.requests[: max(1, math.ceil(share * len(self.alone.requests)))]
        return replace(self, crowd=replace(self.crowd, requests=crowd), alone=replace(self.alone, requests=alone))

    def open(self, rate_per_s: float) -> Traffic:
        """The crowd's requests as they come by themselves, at random (Poisson), at `rate_per_s`: turns of different
        conversations mixed. Another rate stretches the same arrivals."""
        requests, seed = self.crowd.requests, self.crowd.seed
        places = list(range(len(requests)))
        Random(f"{seed} places").shuffle(places)
        turns: dict[int, list[int]] = {}
        roots: dict[int, int] = {}
        for place, request in zip(places, requests, strict=True):
            after = request.after
            roots[request.index] = root = request.index if after is None else roots.get(after, request.index)
            turns.setdefault(root, []).append(place)
        order = {root: iter(sorted(found)) for root, found in turns.items()}
        moments = arrivals(len(requests), rate_per_s, seed=seed)
        timed = [replace(one, arrival_s=moments[next(order[roots[one.index]])]) for one in requests]
        timed.sort(key=lambda one: one.arrival_s or 0.0)
        return replace(self.crowd, requests=tuple(timed), concurrency=None)

    def warm_up(self) -> Traffic:
        """A few requests that share nothing with the others: for caches of code and memory, not of prefixes."""
        prompts = [tuple((7 * index + place) % 97 + 1 for place in range(WARM_UP_TOKENS)) for index in range(2)]
        requests = tuple(
            TrafficRequest(index, WARM_UP_TOKENS, 4, token_ids=prompt) for index, prompt in enumerate(prompts)
        )
        return Traffic("warm-up", requests, concurrency=2)


def check_workload(name: str) -> None:
    """Raises `ConfigError` for a name that is neither a scenario nor `trace:FILE` with a file that is there."""
    if name.startswith(TRACE_PREFIX):
        path = Path(name.removeprefix(TRACE_PREFIX))
        if not path.is_file():
            raise ConfigError(f"there is no trace {path}")
    elif name not in SCENARIOS:
        hint = nearest_name(name, [*SCENARIOS])
        raise ConfigError(f"unknown workload {name!r}{hint} (or {TRACE_PREFIX}FILE)")


def make_workload(name: str, reader: PromptReader, num_requests: int, seed: int) -> Workload:
    """`num_requests` for the crowd, of which at most `MOST_USERS` are under way at once, and an eighth more for one
    user alone. Raises `ConfigError`."""
    num_alone = max(2, math.ceil(ALONE_SHARE * num_requests))
    users = min(MOST_USERS, max(1, math.ceil(num_requests / 2)))
    if num_requests < FEW_REQUESTS and not name.startswith(TRACE_PREFIX):
        crowd = abreast(_traffic(name, reader, 4 * num_requests, seed), num_requests, users)
    else:
        crowd = _traffic(name, reader, num_requests, seed)
    alone = openings(_traffic(name, reader, 4 * num_alone, seed + 1), num_alone)
    return Workload(name, reader, replace(closed(crowd), concurrency=users), closed(alone))


def closed(traffic: Traffic) -> Traffic:
    """Without times: a user sends as soon as the answer is there."""
    requests = tuple(replace(one, arrival_s=None, think_s=0.0, cancel_after_s=None) for one in traffic.requests)
    return replace(traffic, requests=requests)


def _traffic(name: str, reader: PromptReader, num_requests: int, seed: int) -> Traffic:
    if name.startswith(TRACE_PREFIX):
        return replay(
            read_trace(name.removeprefix(TRACE_PREFIX)),
            prompts=PromptText(reader.tokenizer),
            num_requests=num_requests,
            max_model_len=reader.max_model_len,
            seed=seed,
            name=name,
        )
    return make_traffic(
        name,
        tokenizer=reader.tokenizer,
        num_requests=num_requests,
        concurrency=MOST_USERS,
        seed=seed,
        max_model_len=reader.max_model_len,
    )
