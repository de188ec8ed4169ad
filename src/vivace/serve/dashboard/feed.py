"""The numbers that the page draws. Nothing is kept or counted for it while nobody asks."""

from __future__ import annotations

import base64
import time
from collections.abc import Callable

import msgspec

from vivace import __version__
from vivace.schedule.block_map import BlockMap
from vivace.serve.admission import Admission
from vivace.serve.metrics import ServerMetrics
from vivace.serve.metrics.histogram import Histogram
from vivace.serve.wire.dashboard import (
    BlockMapView,
    BlocksView,
    DashboardState,
    EngineView,
    Latencies,
    LatencyTotals,
    QueueView,
    SpeculationView,
)
from vivace.worker.supervisor import EngineClient

SHARED_S = 0.2  # so long all viewers get the same answer: a hundred of them cost what two do


class DashboardFeed:
    """`answer` is the body of GET /dashboard/state. `clock` returns seconds and never goes back."""

    def __init__(
        self,
        model: str,
        engine: EngineClient,
        admission: Admission,
        metrics: ServerMetrics,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._model = model
        self._engine = engine
        self._admission = admission
        self._metrics = metrics
        self._clock = clock
        self._started = clock()
        self._encoder = msgspec.json.Encoder()
        self._answer = b""
        self._answered_at = float("-inf")

    def answer(self) -> bytes:
        """JSON of the state, at most `SHARED_S` old."""
        now = self._clock()
        if now - self._answered_at >= SHARED_S:
            self._answer, self._answered_at = self._encoder.encode(self.state()), now
        return self._answer

    def state(self) -> DashboardState:
        metrics = self._metrics
        return DashboardState(
            time_s=self._clock(),
            started_s=self._started,
            version=__version__,
            model=self._model,
            num_prompt_tokens=metrics.num_prompt_tokens,
            num_generation_tokens=metrics.num_generation_tokens,
            finished=dict(metrics.finished),
            latencies=Latencies(
                first_token=_totals(metrics.first_token_s),
                inter_token=_totals(metrics.inter_token_s),
                queue=_totals(metrics.queue_s),
                request=_totals(metrics.request_s),
            ),
            engine=self._engine_view(),
            blocks=self._blocks(),
            queue=self._queue(),
            speculation=self._speculation(),
        )

    def _engine_view(self) -> EngineView:
        facts, now = self._engine.info, self._engine.gauges
        return EngineView(
            state=self._engine.state,
            num_running=now.num_running,
            num_waiting=now.num_waiting,
            max_num_seqs=facts.max_num_seqs,
            max_num_batched_tokens=facts.max_num_batched_tokens,
            max_model_len=facts.max_model_len,
            last_step_s=now.last_step_s,
            num_steps=now.num_steps,
            num_prefill_rows=now.num_computed_tokens - now.num_decode_rows - now.num_draft_tokens,
            num_decode_rows=now.num_decode_rows,
            num_guess_rows=now.num_draft_tokens,
            num_preemptions=now.num_preemptions,
            num_restarts=now.num_restarts,
        )

    def _blocks(self) -> BlocksView:
        facts, now = self._engine.info, self._engine.gauges
        return BlocksView(
            num_blocks=facts.num_kv_blocks,
            block_size=facts.block_size,
            bytes_per_token=facts.kv_bytes_per_token,
            kv_cache_dtype=facts.kv_cache_dtype,
            num_used=now.num_used_blocks,
            num_cached=now.num_cached_blocks,
            num_free=facts.num_kv_blocks - now.num_used_blocks - now.num_cached_blocks,
            num_prefix_queries=now.num_prefix_queries,
            num_prefix_hits=now.num_prefix_hits,
            map=_map_view(self._engine.block_map()),
        )

    def _queue(self) -> QueueView:
        admission = self._admission
        return QueueView(
            num_queued=admission.num_queued,
            num_queued_tokens=admission.num_queued_tokens,
            num_in_engine=admission.num_in_engine,
            max_queued_requests=admission.limits.max_queued_requests,
            predicted_wait_s=admission.predicted_wait_s(),
            max_queue_s=admission.limits.max_queue_s,
            num_refused=dict(admission.num_refused),
        )

    def _speculation(self) -> SpeculationView:
        now = self._engine.gauges
        return SpeculationView(
            num_drafts=now.num_drafts,
            num_draft_tokens=now.num_draft_tokens,
            num_accepted_tokens=now.num_accepted_tokens,
            num_accepted_by_position=now.num_accepted_by_position,
            choices=now.speculation_choices,
            gain=now.speculation_gain,
        )


def _totals(histogram: Histogram) -> LatencyTotals:
    return LatencyTotals(histogram.bounds, histogram.counts, histogram.sum)


def _map_view(picture: BlockMap | None) -> BlockMapView | None:
    if picture is None:
        return None
    return BlockMapView(picture.blocks_per_cell, base64.b64encode(picture.shares).decode())
