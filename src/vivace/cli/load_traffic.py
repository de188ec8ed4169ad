"""The traffic that flags ask for."""

from __future__ import annotations

import math
from pathlib import Path

from vivace.bench.traffic.arrivals import Ramp
from vivace.bench.traffic.prompt_text import PromptText, TextEncoder
from vivace.bench.traffic.replay import replay
from vivace.bench.traffic.request import Traffic
from vivace.bench.traffic.scenario import CONVERSATIONS, DEFAULT_SCENARIO, make_traffic
from vivace.bench.traffic.traces.trace import read_trace, trace_kind
from vivace.cli.load_options import DEFAULT_USERS, LoadOptions


def load_traffic(
    load: LoadOptions,
    tokenizer: TextEncoder,
    max_model_len: int,
    seed: int,
    *,
    rate: float | None = None,
    users: int | None = None,
) -> Traffic:
    """At a rate, or by so many users; with neither, as the options say. Raises `ConfigError`."""
    if load.trace is not None:
        return _replayed(load, load.trace, tokenizer, max_model_len, seed)
    if rate is None and users is None:
        rates = load.rates()
        rate = rates[0] if rates else None
        users = load.concurrency if rates else load.concurrency or DEFAULT_USERS
    return make_traffic(
        load.scenario or (CONVERSATIONS if load.conversations else DEFAULT_SCENARIO),
        tokenizer=tokenizer,
        num_requests=load.num_requests,
        rate=None if rate is None or math.isinf(rate) else rate,
        burstiness=load.burstiness,
        ramp=None if load.ramp_from is None else Ramp(load.ramp_from),
        concurrency=users,
        seed=seed,
        max_model_len=max_model_len,
        text=load.text,
        conversations=load.conversations,
        think_s=load.think_time,
        prompt_len=load.prompt_len,
        output_len=load.output_len,
        cancel_share=load.cancel_share,
    )


def _replayed(load: LoadOptions, path: str, tokenizer: TextEncoder, max_model_len: int, seed: int) -> Traffic:
    words = PromptText(tokenizer) if load.text is None else PromptText.from_file(tokenizer, load.text)
    return replay(
        read_trace(path),
        prompts=words,
        num_requests=load.num_requests,
        time_scale=load.time_scale,
        max_model_len=max_model_len,
        seed=seed,
        name=f"{trace_kind(path)} trace {Path(path).name}",
    )
