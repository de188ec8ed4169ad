"""What is asked of a planned machine: traffic of bench/traffic in any number of requests, and its means."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from vivace.bench.slo import SLO
from vivace.bench.traffic.prompt_text import PromptText, TextEncoder
from vivace.bench.traffic.replay import replay
from vivace.bench.traffic.request import Traffic
from vivace.bench.traffic.scenario import CONVERSATIONS, SCENARIOS, make_traffic
from vivace.bench.traffic.traces.trace import read_trace, trace_kind
from vivace.core.errors import ConfigError
from vivace.core.nearest_name import nearest_name
from vivace.plan.deployment import TrafficShape
from vivace.plan.tokenised_traffic import TokenisedTraffic, WordEncoder, fixed_traffic, tokenised

DEFAULT_CONTEXT = 8192  # tokens, of models whose window is longer: scenarios of long prompts fill what there is
MEAN_OF = 256  # requests from which means are taken
SMALLEST_BATCH = 128  # requests that are made at once
INTERLEAVED = 48  # dialogues whose turns alternate: where each request comes by itself, answers are there by then
DEFAULT_SLO_SHARE = 0.95


@dataclass(frozen=True, slots=True)
class Load:
    """How many ask at once: `users` who wait for their answers, or `rate_per_s` requests; neither: a trace's own
    times. `slo_share` of the requests keep every bound of `slo`: 0.95 is the 95th percentile of each, at least."""

    users: int | None = None
    rate_per_s: float | None = None
    slo: SLO | None = None
    slo_share: float = DEFAULT_SLO_SHARE

    def __post_init__(self) -> None:
        if self.users is not None and self.rate_per_s is not None:
            raise ConfigError("give a number of users (closed loop) or a rate (open loop), not both")
        if self.users is not None and self.users < 1:
            raise ConfigError(f"a closed loop has 1 user or more, not {self.users}")
        if self.rate_per_s is not None and not 0 < self.rate_per_s < float("inf"):
            raise ConfigError(f"the rate must be above 0 requests a second, not {self.rate_per_s!r}")
        if not 0 < self.slo_share <= 1:
            raise ConfigError(f"the share of requests that keep the objectives is in (0, 1], not {self.slo_share}")

    def words(self) -> str:
        """In one line."""
        if self.users is not None:
            asked = f"{self.users} users at once" if self.users > 1 else "one user"
        elif self.rate_per_s is not None:
            asked = f"{self.rate_per_s:g} requests a second"
        else:
            asked = "at the trace's own times"
        return f"{asked}, {100 * self.slo_share:g}% of requests within {self.slo}" if self.slo else asked


class Workload:
    """One kind of traffic, made when it is asked for and kept: the same requests for every machine.

    `has_times`: requests come at times of their own (a trace).
    """

    def __init__(
        self,
        name: str,
        make: Callable[[int], Traffic],
        encoder: TextEncoder,
        block_size: int,
        *,
        has_times: bool = False,
    ) -> None:
        self.name = name
        self.has_times = has_times
        self._make = make
        self._encoder = encoder
        self._block_size = block_size
        self._made: TokenisedTraffic | None = None
        self._num_asked = 0
        self._shape: TrafficShape | None = None

    def traffic(self, num_requests: int) -> TokenisedTraffic:
        """The first `num_requests`, or all that there are."""
        if self._made is None or num_requests > self._num_asked:
            self._num_asked = max(SMALLEST_BATCH, 1 << (num_requests - 1).bit_length())
            self._made = tokenised(self._make(self._num_asked), self._encoder, self._block_size)
        return self._made.first(num_requests)

    def shape(self, load: Load) -> TrafficShape:
        """The means, for the steady state."""
        if self._shape is None:
            some = self.traffic(MEAN_OF)
            cached = min(some.mean_cached_len, some.mean_prompt_len - 1)
            self._shape = TrafficShape(some.mean_prompt_len, some.mean_answer_len, max(0.0, cached))
        mean = self._shape
        return TrafficShape(
            mean.prompt_len,
            mean.output_len,
            mean.cached_prefix_len,
            load.users or 1,
            load.rate_per_s if load.users is None else None,
            load.slo,
        )


def workload(name: str, *, max_model_len: int, block_size: int = 16, seed: int = 0) -> Workload:
    """By a scenario's name (`vivace bench serve`), or PROMPT:ANSWER[:CACHED] in tokens. Raises `ConfigError`."""
    encoder = WordEncoder()
    if name in SCENARIOS and name != CONVERSATIONS:

        def make(num_requests: int) -> Traffic:
            return make_traffic(
                name,
                tokenizer=encoder,
                num_requests=num_requests,
                concurrency=INTERLEAVED,
                seed=seed,
                max_model_len=max_model_len,
            )

        return Workload(name, make, encoder, block_size)
    prompt, answer, cached = _lengths(name, max_model_len)

    def make_fixed(num_requests: int) -> Traffic:
        return fixed_traffic(prompt, answer, cached, num_requests)

    return Workload(name, make_fixed, encoder, block_size)


def trace_workload(path: str | Path, *, max_model_len: int, block_size: int = 16, seed: int = 0) -> Workload:
    """A published trace (Azure, BurstGPT, Mooncake, Qwen-Bailian), with its own times. Raises `ConfigError`."""
    encoder = WordEncoder()
    words = PromptText(encoder)
    name = f"{trace_kind(path)} trace {Path(path).name}"

    def make(num_requests: int) -> Traffic:
        return replay(
            read_trace(path),
            prompts=words,
            num_requests=num_requests,
            max_model_len=max_model_len,
            seed=seed,
            name=name,
        )

    return Workload(name, make, encoder, block_size, has_times=True)


def _lengths(name: str, max_model_len: int) -> tuple[int, int, int]:
    parts = name.split(":")
    if len(parts) not in (2, 3) or not all(part.isdecimal() for part in parts):
        known = tuple(one for one in SCENARIOS if one != CONVERSATIONS)
        hint = nearest_name(name, known)
        raise ConfigError(f"unknown workload {name!r}{hint} (or PROMPT:ANSWER[:CACHED] in tokens)")
    prompt, answer, cached = [*map(int, parts), 0][:3]
    if prompt < 1 or answer < 1:
        raise ConfigError(f"prompt and answer have 1 token or more, not {name!r}")
    if cached >= prompt:
        raise ConfigError(f"of a prompt of {prompt} tokens at most {prompt - 1} can be cached, not {cached}")
    if prompt + answer > max_model_len:
        raise ConfigError(
            f"{prompt} + {answer} tokens are more than the context of {max_model_len}: raise --max-model-len"
        )
    return prompt, answer, cached
