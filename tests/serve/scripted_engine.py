"""An engine that says what a test tells it to: real token streams, no process behind them."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, cast

from vivace.core.errors import VivaceError
from vivace.core.events import FinishReason, TokenEvent
from vivace.serve.admission import Admission, AdmissionLimits, Ticket
from vivace.serve.generation import Generation, Order
from vivace.serve.metrics import ServerMetrics
from vivace.worker.job import Job
from vivace.worker.stream import TokenStream


@dataclass(frozen=True)
class Capacity:
    vocab_size: int = 4096
    eos_ids: tuple[int, ...] = (0,)
    max_model_len: int = 1024
    max_num_seqs: int = 8
    max_num_batched_tokens: int = 512
    block_size: int = 16
    num_kv_blocks: int = 256
    weight_bytes: int = 1 << 20


@dataclass
class ScriptedEngine:
    """`refusal` is what every stream fails with at once. `aborted` and `stopped` note what the front asked for."""

    info: Capacity = Capacity()
    refusal: VivaceError | None = None
    streams: list[TokenStream] = field(default_factory=list)
    aborted: list[str] = field(default_factory=list)
    stopped: list[tuple[int, str]] = field(default_factory=list)

    def submit(self, job: Job) -> TokenStream:
        stream = TokenStream(job, cast(Any, self), 0.0)
        self.streams.append(stream)
        if self.refusal is not None:
            stream.fail(self.refusal)
        return stream

    def end_early(self, stream: TokenStream) -> None:
        self.aborted.append(stream.job.request_id)
        open_ones = [index for index, tokens in enumerate(stream.emitted) if tokens is not None]
        stream.deliver([TokenEvent(stream.job.request_id, index, None, None, "abort") for index in open_ones])

    def end_continuation(self, stream: TokenStream, index: int, reason: str) -> None:
        self.stopped.append((index, reason))
        stream.deliver([TokenEvent(stream.job.request_id, index, None, None, "stop", reason)])


def step(stream: TokenStream, *tokens: int, index: int = 0, finish: FinishReason | None = None) -> None:
    """One step for each token; `finish` comes with the last one, or alone where there is none."""
    events = [TokenEvent("", index, token, None) for token in tokens] or [TokenEvent("", index, None, None)]
    events[-1] = replace(events[-1], finish=finish)
    for event in events:
        stream.deliver([event])


@dataclass
class Desk:
    """What a generation needs, over a scripted engine."""

    engine: ScriptedEngine = field(default_factory=ScriptedEngine)
    metrics: ServerMetrics = field(default_factory=ServerMetrics)

    def __post_init__(self) -> None:
        self.admission = Admission(AdmissionLimits(self.engine.info))

    def generation(self, tokenizer: Any, order: Order, name: str = "job", *, is_let_in: bool = True) -> Generation:
        def enter() -> Ticket:
            return self.admission.enter(key="", num_bytes=4, max_tokens=50, n=order.params.n)

        generation = Generation(cast(Any, self.engine), tokenizer, enter, self.metrics.begin(), name, order)
        if is_let_in:
            generation.let_in()
        return generation

    @property
    def is_idle(self) -> bool:
        return self.admission.num_in_engine == 0 and self.admission.num_queued == 0
