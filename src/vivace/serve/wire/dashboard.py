"""GET /dashboard/state: totals and gauges at one moment; who looks twice knows the rates."""

from __future__ import annotations

from msgspec import Struct


class LatencyTotals(Struct):
    """A histogram since the start: `counts` has one entry more than `bounds`, for what lies above them."""

    bounds: tuple[float, ...]  # seconds, inclusive upper ends
    counts: list[int]
    sum_s: float


class Latencies(Struct):
    first_token: LatencyTotals
    inter_token: LatencyTotals
    queue: LatencyTotals
    request: LatencyTotals


class EngineView(Struct):
    """Rows are tokens that went through the model: of prompts, one for each sequence that decodes, and guesses."""

    state: str
    num_running: int  # sequences
    num_waiting: int
    max_num_seqs: int
    max_num_batched_tokens: int
    max_model_len: int
    last_step_s: float
    num_steps: int
    num_prefill_rows: int
    num_decode_rows: int
    num_guess_rows: int
    num_preemptions: int
    num_restarts: int


class BlockMapView(Struct):
    """`shares`: base64 of four bytes a cell, the parts (of 255) of its blocks that are free, cached, used, shared."""

    blocks_per_cell: int
    shares: str


class BlocksView(Struct):
    """`map` comes with the second look: the engine is asked by the first."""

    num_blocks: int
    block_size: int  # tokens
    bytes_per_token: int
    kv_cache_dtype: str
    num_used: int
    num_cached: int
    num_free: int
    num_prefix_queries: int  # tokens
    num_prefix_hits: int
    map: BlockMapView | None


class QueueView(Struct):
    """Requests that wait in the front, and what the engine was given."""

    num_queued: int
    num_queued_tokens: int
    num_in_engine: int
    max_queued_requests: int
    predicted_wait_s: float
    max_queue_s: float
    num_refused: dict[str, int]


class SpeculationView(Struct):
    num_drafts: int
    num_draft_tokens: int
    num_accepted_tokens: int
    num_accepted_by_position: tuple[int, ...]
    choices: dict[str, int]
    gain: float


class DashboardState(Struct):
    """`time_s` and `started_s` are on the server's monotonic clock."""

    time_s: float
    started_s: float
    version: str
    model: str
    num_prompt_tokens: int
    num_generation_tokens: int
    finished: dict[str, int]  # requests, by reason
    latencies: Latencies
    engine: EngineView
    blocks: BlocksView
    queue: QueueView
    speculation: SpeculationView
