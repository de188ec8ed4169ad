"""GET /v1/requests/{id}/explain. Times are milliseconds, null until they are known."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from vivace.core.history import MissReason

RequestStatus = Literal["waiting", "running", "finished", "refused", "ended"]


class QueueFacts(Struct):
    """At the door: from arrival until the engine got the request. `delays_ms`: what the first in the queue lacked
    meanwhile: rows of the engine, KV blocks, or prompts that lay ready already."""

    prepare_ms: float | None
    wait_ms: float | None
    predicted_wait_ms: float
    num_ahead: int
    delays_ms: dict[str, float]


class EngineQueueFacts(Struct):
    """In the engine: until its first chunk. `obstacles` counts steps by what the first in the queue lacked: rows,
    tokens of the step, KV blocks, or the end of a static batch."""

    wait_ms: float | None
    compile_ms: float | None  # of a constraint, part of the wait
    num_prefix_waits: int  # times that it waited for another request to compute a prefix that both have
    obstacles: dict[str, int]


class PrefixFacts(Struct):
    """`first_miss_position`: of the first token that differs from the nearest cached prompt."""

    num_prompt_tokens: int
    num_cached_tokens: int
    block_size: int
    num_blocks_hit: int | None
    first_miss: MissReason | None
    first_miss_position: int | None


class ChunkFacts(Struct):
    """Tokens from `start` on, in a step of `num_step_rows` tokens of all requests, `at_ms` after the arrival."""

    start: int
    num_tokens: int
    num_step_rows: int
    at_ms: float


class PrefillFacts(Struct):
    """`chunks` are the first 32."""

    ms: float | None
    num_chunks: int
    chunks: list[ChunkFacts]


class PreemptionFacts(Struct):
    after_output_tokens: int
    num_lost_tokens: int  # had been computed; what the prefix cache kept of them was not computed again
    for_itself: bool  # it wanted to grow and came last; else the blocks went to one before it


class DecodeFacts(Struct):
    """`num_steps` of the engine from the first chunk on, `mean_rows` tokens of all requests in each."""

    ms: float | None
    num_output_tokens: int
    num_steps: int
    mean_rows: float | None
    num_preemptions: int
    preemptions: list[PreemptionFacts]


class SpeculationFacts(Struct):
    """`choices`: those steps by what the rule chose for all that ran."""

    num_guessed: int
    num_accepted: int
    choices: dict[str, int]


class PromptExplanation(Struct):
    index: int
    status: RequestStatus
    finish_reason: str | None
    summary: list[str]
    queue: QueueFacts
    engine_queue: EngineQueueFacts
    prefix: PrefixFacts
    prefill: PrefillFacts
    decode: DecodeFacts
    speculation: SpeculationFacts
    refusal: str | None  # what its client was told, where it was refused
    num_restarts: int  # of the engine; it was replayed in the next one: chunks, steps and counts are of the last


class RequestExplanation(Struct):
    """`summary` says it in words; of several prompts, each has its own in `prompts` (the first 16 are kept)."""

    id: str
    created: int
    status: RequestStatus
    num_prompts: int
    summary: list[str]
    prompts: list[PromptExplanation]
    object: str = "request.explanation"
