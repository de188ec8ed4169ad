"""The engine's side of the conversation: commands in, a step, one report of all that it brought."""

from __future__ import annotations

import time

from msgspec.structs import replace

from vivace.core.errors import RequestError
from vivace.core.events import TokenEvent
from vivace.engine.engine import Engine
from vivace.engine.request_record import RequestRecord
from vivace.schedule.block_map import block_map
from vivace.speculate.speculation import SpeculationStats
from vivace.worker.info import EngineGauges
from vivace.worker.messages import (
    Abort,
    Command,
    Ended,
    Explain,
    Explained,
    Pooled,
    PromptScores,
    Refused,
    Started,
    Step,
    Stop,
    Submit,
    Survey,
    Surveyed,
)
from vivace.worker.probation import Probation
from vivace.worker.refusal import error_as_data
from vivace.worker.socket_channel import SocketChannel

MAX_SCORES = 4096  # positions of prompt log probabilities in one message: at most 1.3 MB
HEARTBEAT_S = 1.0  # sign of life while a static batch gathers or a constraint is compiled


class EngineLoop:
    """Steps the engine until the front is gone. One thread: commands are read between steps, without waiting."""

    def __init__(self, engine: Engine, channel: SocketChannel) -> None:
        self._engine = engine
        self._channel = channel
        self._probation = Probation()
        self._reported_at = 0.0
        self._unstarted: set[str] = set()  # no event of theirs was reported yet

    def run(self) -> None:
        """Return when the front closed the channel. Errors of the engine itself propagate."""
        channel, engine = self._channel, self._engine
        while True:
            for command in channel.receive():
                self._apply(command)
            if channel.is_closed:
                return
            while (submission := self._probation.pop()) is not None:
                self._begin(submission)
            idle_s = engine.idle_s
            if idle_s == 0.0:
                self._step()
            elif idle_s is None:
                channel.wait(None)
            else:
                channel.wait(min(idle_s, HEARTBEAT_S))
                if time.monotonic() - self._reported_at >= HEARTBEAT_S:
                    self._report([], 0.0)

    def _apply(self, command: Command) -> None:
        match command:
            case Submit():
                self._probation.push(command)
            case Abort(request_id):
                if not self._probation.drop(request_id):
                    self._engine.abort(request_id)
            case Stop(request_id, index, reason):
                if not self._probation.stop(request_id, index):
                    self._engine.stop(request_id, index, reason)
            case Survey():
                self._channel.send(Surveyed(block_map(self._engine.scheduler.block_manager)))
            case Explain(request_id):
                self._channel.send(Explained(request_id, self._engine.account(request_id)))

    def _begin(self, submission: Submit) -> None:
        job = submission.job
        try:
            self._engine.add(
                job.request_id,
                job.prompt,
                job.params,
                priority=job.priority,
                cache_salt=job.cache_salt,
                emitted=submission.emitted,
                pooling=job.pooling,
            )
        except RequestError as error:
            self._probation.refuse(job.request_id)
            self._channel.send(Refused(job.request_id, error_as_data(error)))
        else:
            self._unstarted.add(job.request_id)

    def _step(self) -> None:
        began = time.monotonic()
        events = self._engine.step()
        if self._probation.is_on:
            self._probation.hear(events)
        self._report(events, time.monotonic() - began)

    def _report(self, events: list[TokenEvent], step_s: float) -> None:
        started: list[Started] = []
        ended: dict[str, Ended] = {}
        for event in events:
            request_id = event.request_id
            if request_id in self._unstarted:
                started.append(self._start(request_id))
            if event.finish is not None and request_id not in ended:
                record = self._engine.record(request_id)
                if record.num_unfinished == 0:
                    ended[request_id] = self._ended(request_id, record)
        for request_id in ended:
            self._engine.forget(request_id)
        self._reported_at = time.monotonic()
        self._channel.send(Step(events, started, list(ended.values()), self._gauges(step_s)))

    def _ended(self, request_id: str, record: RequestRecord) -> Ended:
        num_preemptions = sum(one.num_preemptions for one in record.sequences)
        return Ended(request_id, record.timings.finished, num_preemptions, self._engine.account(request_id))

    def _start(self, request_id: str) -> Started:
        """Called with the first event of a request. Its prompt's scores and its embedding go ahead of it."""
        self._unstarted.remove(request_id)
        record = self._engine.record(request_id)
        scores = record.prompt_logprobs
        if scores is not None and all(entry is not None for entry in scores[1:]):  # not where it was aborted early
            for first in range(0, len(scores), MAX_SCORES):
                self._channel.send(PromptScores(request_id, scores[first : first + MAX_SCORES]))
        if record.embedding is not None:
            self._channel.send(Pooled(request_id, record.embedding))
        return Started(request_id, record.timings.admitted, record.timings.first_token, record.num_cached_tokens)

    def _gauges(self, step_s: float) -> EngineGauges:
        stats, scheduler = self._engine.stats, self._engine.scheduler
        blocks = scheduler.block_manager
        gauges = EngineGauges(
            scheduler.num_running,
            scheduler.num_waiting + len(self._probation),
            blocks.num_used,
            blocks.num_cached,
            blocks.num_free,
            stats.num_steps,
            stats.num_prompt_tokens,
            stats.num_generation_tokens,
            stats.num_computed_tokens,
            stats.num_preemptions,
            blocks.num_prefix_queries,
            blocks.num_prefix_hits,
            step_s,
            num_decode_rows=stats.num_decode_rows,
        )
        return (
            gauges if self._engine.speculation is None else with_speculation(gauges, self._engine.speculation.stats)
        )


def with_speculation(gauges: EngineGauges, stats: SpeculationStats) -> EngineGauges:
    """The gauges with the counters of speculation."""
    return replace(
        gauges,
        num_drafts=stats.num_drafts,
        num_draft_tokens=stats.num_draft_tokens,
        num_accepted_tokens=stats.num_accepted_tokens,
        num_accepted_by_position=tuple(stats.num_accepted_by_position),
        speculation_choices=dict(stats.num_choices),
        speculation_gain=stats.gain,
        speculation_verdict=stats.verdict,
    )
