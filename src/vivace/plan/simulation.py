"""Traffic through the engine's own scheduler, in simulated time: each step takes what the step-time model says.

Nothing of the scheduler is modelled: its budget, its chunks, its blocks, its prefix cache and its preemptions are the
real ones (`schedule`), so that they cannot differ. What is simulated is the clock, and the tokens that come out.
"""

from __future__ import annotations

import heapq
import math
from array import array
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

from vivace.bench.records import RequestRecord
from vivace.core.errors import RequestError
from vivace.core.sampling import SamplingParams
from vivace.core.sequence import Sequence
from vivace.core.step import ScheduledSequence, StepPlan
from vivace.plan.deployment import Deployment
from vivace.plan.players import Due, Players
from vivace.plan.step_time import StepTime
from vivace.plan.tokenised_traffic import TokenisedRequest, TokenisedTraffic
from vivace.schedule.block_manager import BlockManager
from vivace.schedule.continuous import ContinuousBatching
from vivace.schedule.scheduler import Scheduler
from vivace.schedule.static import StaticBatching

STATIC_WAIT_S = 0.050  # that a static batch waits for more requests: the engine's default
WAKE_AFTER_S = 0.02  # a pause of so long makes the next steps as slow as any; a shorter one in proportion
Cost = Callable[[StepPlan], StepTime]


@dataclass(slots=True)
class Totals:
    """Seconds of all steps, and what they were spent on; `row_steps`: sequences, summed over the steps."""

    num_steps: int = 0
    busy_s: float = 0.0
    bandwidth_s: float = 0.0
    arithmetic_s: float = 0.0
    overhead_s: float = 0.0
    running_s: float = 0.0
    kv_usage_s: float = 0.0
    num_preemptions: int = 0
    num_prompt_tokens: int = 0
    num_cached_tokens: int = 0

    def count(self, step: StepTime, num_running: int, kv_usage: float) -> None:
        self.num_steps += 1
        self.busy_s += step.total_s
        self.bandwidth_s += step.bandwidth_s
        self.arithmetic_s += step.arithmetic_s
        self.overhead_s += step.overhead_s
        self.running_s += num_running * step.total_s
        self.kv_usage_s += kv_usage * step.total_s


@dataclass(slots=True)
class _Run:
    """A request between its arrival and its end."""

    request: TokenisedRequest
    due_s: float
    token_s: list[float] = field(default_factory=list)
    queue_s: float | None = None
    num_cached: int = 0


class Simulation:
    """One play of one traffic. `play` may be called once. `wake_s`: that a step after a long pause takes longer."""

    def __init__(
        self,
        traffic: TokenisedTraffic,
        players: Players,
        cost: Cost,
        deployment: Deployment,
        *,
        num_kv_blocks: int,
        wake_s: float = 0.0,
        seed: int = 0,
    ) -> None:
        self.now = 0.0
        self._wake_s, self._paused_s = wake_s, 0.0
        self.totals = Totals()
        self.records: list[RequestRecord] = []
        self._players = players
        self._cost = cost
        self._speculation = deployment.speculation
        self._random = Random(f"{seed} guesses")
        self._runs: dict[Sequence, _Run] = {}
        self._departures: list[tuple[float, int, Sequence]] = []
        self._num_arrived = 0
        self._params: dict[int, SamplingParams] = {}
        num_blocks = max(1, min(num_kv_blocks, traffic.num_blocks + traffic.block_size))
        manager = BlockManager(num_blocks, deployment.block_size, deployment.enable_prefix_caching)
        self.scheduler = self._scheduler(manager, deployment, traffic.longest + 1)

    def play(self) -> list[RequestRecord]:
        """Until every request has its record."""
        while True:
            for due in self._players.due(self.now):
                self._arrive(due)
            self._depart()
            if not self.scheduler.has_unfinished:
                moment = self._players.next_s()
                if moment is None:
                    break
                self._paused_s += max(0.0, moment - self.now)
                self.now = max(self.now, moment)
                continue
            self.step()
        manager = self.scheduler.block_manager
        self.totals.num_preemptions = self.scheduler.num_preemptions
        self.totals.num_prompt_tokens = manager.num_prefix_queries
        self.totals.num_cached_tokens = manager.num_prefix_hits
        return self.records

    def step(self) -> StepPlan:
        """One step of the scheduler; time goes on by what it costs, or until there is something to do."""
        plan = self.scheduler.plan()
        if not plan:
            idle_s = self.scheduler.idle_s
            moment = self._players.next_s()
            self.now = min(
                math.inf if moment is None else max(moment, self.now),
                self.now + (math.inf if idle_s is None else max(idle_s, 1e-9)),
            )
            return plan
        for sequence in plan.table_resets:
            run = self._runs[sequence]
            if run.queue_s is None:
                run.queue_s, run.num_cached = self.now - run.due_s, sequence.num_cached
        step = self._cost(plan)
        if self._paused_s and self._wake_s:
            step = step.delayed(self._wake_s * min(1.0, self._paused_s / WAKE_AFTER_S))
        self._paused_s = 0.0
        self.now += step.total_s
        self.totals.count(step, len(plan.scheduled), self.scheduler.block_manager.usage)
        self._advance(plan)
        return plan

    def _scheduler(self, manager: BlockManager, deployment: Deployment, max_model_len: int) -> Scheduler:
        if deployment.batching == "static":
            rows = deployment.most_running
            return StaticBatching(
                manager,
                max_num_seqs=rows,
                max_num_batched_tokens=max(rows, deployment.max_num_batched_tokens),
                max_model_len=max_model_len,
                max_wait_s=STATIC_WAIT_S,
                clock=lambda: self.now,
            )
        return ContinuousBatching(
            manager,
            max_num_seqs=deployment.most_running,
            max_num_batched_tokens=deployment.max_num_batched_tokens,
            max_model_len=max_model_len,
        )

    def _arrive(self, due: Due) -> None:
        request = due.request
        answer_len = len(request.answer)
        params = self._params.get(answer_len)
        if params is None:
            params = self._params[answer_len] = SamplingParams(max_tokens=answer_len)
        sequence = Sequence(
            request_id=str(request.asked.index),
            index=0,
            tokens=array("i", request.prompt),
            num_prompt=len(request.prompt),
            params=params,
            seed=0,
            arrival=self._num_arrived,
            max_len=request.num_tokens,
            block_hashes=list(request.hashes),
        )
        self._num_arrived += 1
        run = self._runs[sequence] = _Run(request, due.moment_s)
        try:
            self.scheduler.add(sequence)
        except RequestError as error:
            self._end(sequence, run, "refused", str(error))
            return
        if request.asked.cancel_after_s is not None:
            leaves_s = due.moment_s + request.asked.cancel_after_s
            heapq.heappush(self._departures, (leaves_s, self._num_arrived, sequence))

    def _depart(self) -> None:
        while self._departures and self._departures[0][0] <= self.now:
            sequence = heapq.heappop(self._departures)[2]
            run = self._runs.get(sequence)
            if run is not None:
                self.scheduler.abort(sequence)
                self._end(sequence, run, "cancelled")

    def _advance(self, plan: StepPlan) -> None:
        """Tokens come out: guesses that stand before the plan is committed, the step's own after it."""
        plan_speculation = self._speculation
        if plan_speculation is not None:
            for item in plan.drafting:
                self._accept(item, plan_speculation.acceptance)
        self.scheduler.commit(plan)
        now = self.now
        for item in plan.scheduled:
            if not item.samples:
                continue
            sequence = item.sequence
            run = self._runs[sequence]
            tokens = sequence.tokens
            tokens.append(run.request.answer[len(tokens) - sequence.num_prompt])
            run.token_s.append(now)
            if len(tokens) >= sequence.max_len:
                self.scheduler.finish(sequence)
                self._end(sequence, run, "ok")
            elif plan_speculation is not None:
                sequence.num_speculative = plan_speculation.num_tokens

    def _accept(self, item: ScheduledSequence, acceptance: float) -> None:
        """Each guess stands with that chance if those before it did."""
        count = 0
        while count < len(item.draft) and self._random.random() < acceptance:
            count += 1
        item.num_new -= len(item.draft) - count
        sequence = item.sequence
        run = self._runs[sequence]
        begin = len(sequence.tokens) - sequence.num_prompt
        sequence.tokens.extend(run.request.answer[begin : begin + count])
        run.token_s.extend([self.now] * count)

    def _end(self, sequence: Sequence, run: _Run, status: str, error: str | None = None) -> None:
        del self._runs[sequence]
        asked = run.request.asked
        record = RequestRecord(
            index=asked.index,
            intended_s=run.due_s,
            sent_s=run.due_s,
            ended_s=self.now,
            status=status,  # type: ignore[arg-type]
            prompt_len=len(run.request.prompt),
            output_len=len(run.token_s),
            token_s=tuple(run.token_s),
            queue_s=run.queue_s,
            num_cached_tokens=run.num_cached,
            error=error,
        )
        self.records.append(record)
        self._players.ended(run.request, self.now, goes_on=status != "refused")
