"""Flags of `vivace bench serve` and `vivace bench compare`: what is sent, how, and to whom."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from vivace.bench.slo import SLO
from vivace.cli.options import OptionGroup, flags_of
from vivace.core.errors import ConfigError

DEFAULT_USERS = 8
ENDPOINTS = ("chat", "completions")


@dataclass(frozen=True, slots=True)
class LoadOptions:
    """As given on the command line; `Traffic` is made of it with a tokenizer and a context length."""

    scenario: str | None = None
    trace: str | None = None
    conversations: str | None = None
    num_requests: int = 100
    request_rate: tuple[str, ...] = ()
    burstiness: float = 1.0
    ramp_from: float | None = None
    concurrency: int | None = None
    max_concurrency: int | None = None
    time_scale: float = 1.0
    prompt_len: int | None = None
    output_len: int | None = None
    think_time: float | None = None
    cancel_share: float = 0.0
    text: str | None = None
    warm_up: int = 4
    goodput: tuple[str, ...] = ()
    endpoint: str | None = None
    extra_body: str | None = None
    request_timeout: float = 600.0
    retries: int = 0

    def __post_init__(self) -> None:
        if self.trace is not None and (self.scenario is not None or self.conversations is not None):
            raise ConfigError("give --trace or --scenario (or --conversations), not both")
        if self.trace is not None and (self.request_rate or self.concurrency is not None):
            raise ConfigError("a trace has its own times: scale them with --time-scale")
        if self.trace is None and self.time_scale != 1.0:
            raise ConfigError("--time-scale is for --trace; scenarios have --request-rate")
        if self.endpoint is not None and self.endpoint not in ENDPOINTS:
            raise ConfigError(f"--endpoint is {' or '.join(ENDPOINTS)}, not {self.endpoint!r}")
        if self.max_concurrency is not None and self.max_concurrency < 1:
            raise ConfigError("--max-concurrency must be at least 1")
        if not (self.request_timeout > 0 and self.retries >= 0 and self.warm_up >= 0):
            raise ConfigError("--request-timeout must be above 0, --retries and --warm-up at least 0")
        _ = self.slo, self.rates(), self.extra()

    @property
    def slo(self) -> SLO | None:
        return SLO.parse(self.goodput) if self.goodput else None

    def rates(self) -> list[float]:
        """Of `--request-rate`, several with commas or repeated; `inf`: all at once."""
        rates = []
        for entry in " ".join(self.request_rate).replace(",", " ").split():
            try:
                rates.append(float(entry))
            except ValueError:
                raise ConfigError(f"--request-rate is a number of requests a second, not {entry!r}") from None
            if not rates[-1] > 0:
                raise ConfigError(f"--request-rate must be above 0, not {entry}")
        return rates

    def extra(self) -> dict[str, Any]:
        """Fields of `--extra-body`."""
        try:
            fields = {} if self.extra_body is None else json.loads(self.extra_body)
        except ValueError as error:
            raise ConfigError(f"--extra-body is a JSON object: {error}") from None
        if not isinstance(fields, dict):
            raise ConfigError('--extra-body is a JSON object, as in {"temperature": 1}')
        return fields


LOAD_HELP = {
    "scenario": "Traffic that is made up: chat (the default), conversations, system-prompt, rag, long-prompt, "
    "long-answer, agent or uniform.",
    "trace": "A published trace to replay (Azure, BurstGPT, Mooncake, Qwen-Bailian; plain or .gz), with our texts.",
    "conversations": "A ShareGPT-style file (JSON lines or one array) whose conversations are sent.",
    "num_requests": "Requests that are counted; of a trace, its first ones; of a rate in a sweep, at least so many.",
    "request_rate": "Requests a second (open loop); inf: all at once. Several, repeated or with commas: a run each.",
    "burstiness": "Of arrivals: 1 Poisson, less in bursts, more evenly.",
    "ramp_from": "Let the rate climb from this one.",
    "concurrency": f"Users who wait for an answer before they ask again (closed loop). Default: {DEFAULT_USERS}.",
    "max_concurrency": "Of an open loop, requests in flight at most; what is held back still counts as waiting.",
    "time_scale": "Of a trace, factor on the gaps: 0.5 is twice as fast.",
    "prompt_len": "Tokens of each prompt (scenarios of single prompts).",
    "output_len": "Tokens of each answer (scenarios of single prompts).",
    "think_time": "Seconds between the turns of a conversation, on average.",
    "cancel_share": "Share of the requests whose client leaves early, 0 to 1.",
    "text": "A text file that prompts are made of. Default: the package's sample.",
    "warm_up": "Requests before, that are not counted.",
    "goodput": "What a good request keeps, in ms: ttft:500 tpot:50 itl:200 e2el:5000.",
    "endpoint": "chat or completions. Default: as the traffic is made.",
    "extra_body": 'JSON object of fields for every request, as in {"temperature": 1}; null takes one out.',
    "request_timeout": "Seconds after which a request without a whole answer is an error.",
    "retries": "Times that a refused request (429, 503) is sent again, after its Retry-After.",
}
LOAD = OptionGroup(tuple(flags_of(LoadOptions, LOAD_HELP)), lambda values: LoadOptions(**_tuples(values)))


def _tuples(values: dict[str, Any]) -> dict[str, Any]:
    lists = {name: tuple(values.get(name) or ()) for name in ("request_rate", "goodput")}
    return {**values, **lists}
