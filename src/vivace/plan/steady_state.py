"""Continuous batching in a steady state: from the time of a step to latency and throughput.

In a steady state every request that ends is followed by another. Of `running` sequences so many decode that as many
prompts come in as answers end; their prompts share the steps of the others in chunks (chunked prefill). Little's law
ties the three together. In an open loop the concurrency follows from the rate; waiting for a place is that of a queue
with many servers (Sakasegawa, 1977, Annals of the Institute of Statistical Mathematics 29), waiting for earlier
prompts that of one server with a fixed time of service.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from vivace.plan.deployment import Deployment, TrafficShape
from vivace.plan.step_time import StepModel, StepTime

BISECTIONS = 30
SATURATED = 0.995  # of the capacity: what a queue without end is called


@dataclass(frozen=True, slots=True)
class SteadyState:
    """Means. `mixed` is a step with a chunk of a prompt in it, `plain` one without. `queue_s` is part of `ttft_s`."""

    running: float
    requests_per_s: float
    tokens_per_s: float
    ttft_s: float
    itl_s: float
    tpot_s: float
    e2el_s: float
    queue_s: float
    longest_gap_s: float
    plain: StepTime
    mixed: StepTime
    mixed_share: float


class Service:
    """One deployment under one shape of traffic."""

    def __init__(
        self, model: StepModel, draft: StepModel | None, deployment: Deployment, shape: TrafficShape
    ) -> None:
        self._model = model
        self._draft = draft
        self._deployment = deployment
        self._shape = shape
        self._rows = deployment.rows_a_sequence
        cached = shape.cached_prefix_len if deployment.enable_prefix_caching else 0.0
        self._new_len = shape.prompt_len - cached
        self._cached_len = cached
        self._decode_steps = max(0.0, (shape.output_len - 1) / deployment.tokens_a_step)
        self._context_len = shape.prompt_len + shape.output_len / 2

    def closed(self, users: float, most_running: int) -> SteadyState:
        """`users` who each wait for their answer before they ask again."""
        if self._deployment.batching == "static":
            return self._static(users, most_running)
        running = min(users, most_running)
        budget = self._deployment.max_num_batched_tokens
        chunk = max(1.0, min(self._new_len, budget - self._rows * max(0.0, running - 1)))
        prefill_steps = math.ceil(self._new_len / chunk)
        decoding = running * self._decode_steps / (self._decode_steps + prefill_steps)
        starts = decoding / self._decode_steps if self._decode_steps else running / prefill_steps  # requests a step
        room = budget - self._rows * decoding
        if starts * self._new_len > room:  # prompts come in faster than the budget lets them
            starts = budget / (self._new_len + self._rows * self._decode_steps)
            decoding = starts * self._decode_steps
        mixed_share = min(1.0, starts * self._new_len / chunk)
        chunk = starts * self._new_len / mixed_share
        plain, mixed = self._step(decoding, 0.0), self._step(decoding, chunk)
        step_s = (1 - mixed_share) * plain.total_s + mixed_share * mixed.total_s
        requests_per_s = starts / step_s
        alone_s = prefill_steps * plain.total_s + (mixed.total_s - plain.total_s) * self._new_len / chunk
        prefill_s = max(alone_s, (running - decoding) / requests_per_s)
        queue_s = max(0.0, users - running) / requests_per_s
        return self._state(running, requests_per_s, prefill_s, queue_s, step_s, plain, mixed, mixed_share)

    def open(self, rate_per_s: float, most_running: int) -> SteadyState | None:
        """Requests that arrive by themselves, at random; None where they arrive faster than they are answered."""
        full = self.closed(most_running, most_running)
        load = rate_per_s / full.requests_per_s
        if load >= SATURATED:
            return None
        low, high = 1e-3, float(most_running)
        for _ in range(BISECTIONS):
            middle = (low + high) / 2
            if self.closed(middle, most_running).requests_per_s < rate_per_s:
                low = middle
            else:
                high = middle
        state = self.closed(high, most_running)
        servers = float(most_running)
        for_place = load ** (math.sqrt(2 * (servers + 1)) - 1) / (servers * (1 - load)) * state.e2el_s / 2
        busy = min(SATURATED, rate_per_s * state.mixed.total_s * math.ceil(self._new_len / self._budget))
        for_prompts = busy / (2 * (1 - busy)) * state.mixed.total_s
        for_step = min(1.0, state.running) * state.plain.total_s / 2
        queue_s = for_place + for_prompts + for_step
        return self._state(
            state.running,
            rate_per_s,
            state.ttft_s,
            queue_s,
            state.tpot_s * self._deployment.tokens_a_step,
            state.plain,
            state.mixed,
            state.mixed_share,
        )

    @property
    def _budget(self) -> int:
        return self._deployment.max_num_batched_tokens

    def _step(self, decoding: float, chunk: float) -> StepTime:
        """With the draft's own steps, one a guess."""
        start = self._cached_len + max(0.0, self._new_len - chunk) / 2
        step = self._model.step(decoding, self._context_len, self._rows, chunk, start)
        if self._draft is None:
            return step
        return step.followed_by(self._draft.step(decoding, self._context_len, 1), self._rows - 1)

    def _static(self, users: float, most_running: int) -> SteadyState:
        """A batch starts together and ends together; who comes meanwhile waits for the next one."""
        batch = max(1.0, min(users, most_running))
        chunk = min(batch * self._new_len, float(self._budget))
        num_chunks = math.ceil(batch * self._new_len / chunk)
        plain, mixed = self._step(batch, 0.0), self._step(0.0, chunk)
        prefill_s = num_chunks * mixed.total_s
        round_s = prefill_s + self._decode_steps * plain.total_s
        queue_s = max(0.0, users / batch - 1) * round_s
        share = num_chunks / (num_chunks + self._decode_steps)
        return self._state(batch, batch / round_s, prefill_s, queue_s, plain.total_s, plain, mixed, share)

    def _state(
        self,
        running: float,
        requests_per_s: float,
        prefill_s: float,
        queue_s: float,
        step_s: float,
        plain: StepTime,
        mixed: StepTime,
        mixed_share: float,
    ) -> SteadyState:
        tokens_a_step = self._deployment.tokens_a_step
        ttft_s = queue_s + prefill_s
        return SteadyState(
            running=running,
            requests_per_s=requests_per_s,
            tokens_per_s=requests_per_s * self._shape.output_len,
            ttft_s=ttft_s,
            itl_s=plain.total_s if mixed_share < 0.5 else mixed.total_s,
            tpot_s=step_s / tokens_a_step,
            e2el_s=ttft_s + self._decode_steps * step_s,
            queue_s=queue_s,
            longest_gap_s=mixed.total_s if running > 1 else plain.total_s,
            plain=plain,
            mixed=mixed,
            mixed_share=mixed_share,
        )
