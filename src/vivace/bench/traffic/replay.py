"""A trace as traffic: its gaps, its lengths, its shared prefixes, with texts of our own."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from vivace.bench.traffic.load_shape import LoadShape
from vivace.bench.traffic.prompt_text import PromptText
from vivace.bench.traffic.prompt_tree import PromptTree
from vivace.bench.traffic.request import Traffic, TrafficRequest
from vivace.bench.traffic.traces.row import TraceRow
from vivace.core.errors import ConfigError

CHECKED_TOKENS = 100_000  # of all prompts' texts, counted again to tell how far they miss their length


def replay(
    rows: Iterable[TraceRow],
    *,
    prompts: PromptText,
    num_requests: int | None = None,
    time_scale: float = 1.0,
    max_model_len: int | None = None,
    load: LoadShape | None = None,
    seed: int = 0,
    send_token_ids: bool = False,
    name: str = "trace",
) -> Traffic:
    """The first `num_requests` rows (None: all) as an open loop that begins at 0; `rows` is read no further.

    `time_scale` multiplies gaps: 0.5 replays twice as fast. `load`: arrivals of another kind than the trace's own.
    `max_model_len`: prompts are cut at their end so that they fit with their answers, of which none gets more than
    half of it if its prompt needs the rest; `Traffic.source` says how many and by how many tokens. Rows without a
    prompt or an answer (failed requests) are left out, and counted there. Prompts are texts of `prompts` which share
    prefixes as the rows' block hashes say, and nothing else; `send_token_ids`: the trace's own token ids instead, for
    a server of the traced model's vocabulary.

    Raises `ConfigError` for wrong values and for a trace without requests.
    """
    if not (math.isfinite(time_scale) and time_scale > 0):
        raise ConfigError(f"a time scale is above 0 (0.5 replays twice as fast), not {time_scale}")
    if num_requests is not None and num_requests < 1:
        raise ConfigError(f"traffic has 1 request or more, not {num_requests}")
    account = _Account(max_model_len)
    chosen = list(_chosen(rows, num_requests, account))
    if not chosen:
        raise ConfigError("the trace has no request with a prompt and an answer")
    in_order = sorted(chosen, key=lambda row: row.arrival_s)
    moments = _moments(in_order, time_scale, load, seed)
    tree = PromptTree(prompts, f"{seed} trace")
    requests: list[TrafficRequest] = []
    for index, (row, arrival_s) in enumerate(zip(in_order, moments, strict=True)):
        prompt_len, output_len = account.fitted(row)
        if send_token_ids:
            ids = _token_ids(row)[:prompt_len]
            requests.append(TrafficRequest(index, prompt_len, output_len, token_ids=ids, arrival_s=arrival_s))
        else:
            text = tree.prompt(prompt_len, row.block_hashes or (), row.block_len or 0)
            account.check(prompts, text, prompt_len)
            requests.append(TrafficRequest(index, prompt_len, output_len, text=text, arrival_s=arrival_s))
    source: dict[str, object] = {"trace": name, "num_requests": len(requests)}
    source |= {"time_scale": time_scale} if load is None else load.record()
    source |= account.record()
    if not send_token_ids:
        source["text"] = prompts.source
    return Traffic(name, tuple(requests), seed, load.concurrency if load else None, source)


@dataclass(slots=True)
class _Account:
    """What was changed on the way from rows to requests."""

    max_model_len: int | None
    counts: dict[str, int] = field(default_factory=dict)
    num_checked: int = 0
    deviation: int = 0

    def __post_init__(self) -> None:
        if self.max_model_len is not None and self.max_model_len < 2:
            raise ConfigError(f"a prompt and its answer need 2 tokens or more, not {self.max_model_len}")

    def count(self, what: str, number: int = 1) -> None:
        self.counts[what] = self.counts.get(what, 0) + number

    def fitted(self, row: TraceRow) -> tuple[int, int]:
        """Lengths of prompt and answer within the context."""
        if self.max_model_len is None:
            return row.prompt_len, row.output_len
        output_len = min(row.output_len, max(self.max_model_len // 2, self.max_model_len - row.prompt_len))
        prompt_len = min(row.prompt_len, self.max_model_len - output_len)
        for what, cut in (("prompts", row.prompt_len - prompt_len), ("outputs", row.output_len - output_len)):
            if cut:
                self.count(f"clipped_{what}")
                self.count(f"clipped_{what}_tokens", cut)
        return prompt_len, output_len

    def check(self, prompts: PromptText, text: str, num_tokens: int) -> None:
        if self.num_checked < CHECKED_TOKENS:
            self.num_checked += num_tokens
            self.deviation = max(self.deviation, abs(prompts.deviation(text, num_tokens)))

    def record(self) -> dict[str, object]:
        fits = {} if self.max_model_len is None else {"max_model_len": self.max_model_len}
        checked = {"largest_length_deviation": self.deviation} if self.num_checked else {}
        return {**fits, **self.counts, **checked}


def _chosen(rows: Iterable[TraceRow], num_requests: int | None, account: _Account) -> Iterator[TraceRow]:
    num_chosen = 0
    for row in rows:
        if row.prompt_len == 0 or row.output_len == 0:
            account.count("left_out")
            continue
        yield row
        num_chosen += 1
        if num_chosen == num_requests:
            break


def _moments(
    rows: Sequence[TraceRow], time_scale: float, load: LoadShape | None, seed: int
) -> Sequence[float | None]:
    if load is None:
        return [(row.arrival_s - rows[0].arrival_s) * time_scale for row in rows]
    if time_scale != 1:
        raise ConfigError("a time scale is for the trace's own arrivals: leave it out, or the rate or users")
    return load.arrivals([1] * len(rows), seed)


def _token_ids(row: TraceRow) -> tuple[int, ...]:
    if row.token_ids is None:
        raise ConfigError("this trace has no token ids: let prompts be texts")
    return row.token_ids
