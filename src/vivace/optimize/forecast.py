"""The planner's predictions, in the words of the search."""

from __future__ import annotations

from dataclasses import dataclass, replace

from vivace.models.spec import ModelSpec
from vivace.optimize.candidate import Candidate
from vivace.optimize.kv_pool import KVPool
from vivace.optimize.measurement import Forecast
from vivace.optimize.workload import Workload
from vivace.plan.deployment import Deployment, SpeculationPlan, TrafficShape
from vivace.plan.machine import Machine
from vivace.plan.prediction import Prediction, predict

SLOWEST = 1e-9  # tokens a second of what cannot run
ACCEPTANCE = 0.3  # of a guess, before anything is measured: of sampled text by n-grams or a small draft


@dataclass(frozen=True, slots=True)
class PlanForecaster:
    """`stored` names the quantization that comes nearest to a checkpoint that is quantised already."""

    spec: ModelSpec
    machine: Machine
    workload: Workload
    pool: KVPool
    stored: str = "bf16"

    def __call__(self, candidate: Candidate) -> Forecast:
        """The crowd's throughput and one user's answer. The engine stops to guess where that does not pay: a
        candidate that guesses is expected to be no slower than one that does not."""
        expected = self._expected(candidate)
        if candidate.speculation is None:
            return expected
        plain = self._expected(replace(candidate, speculation=None))
        return replace(
            expected,
            tokens_per_s=max(expected.tokens_per_s, plain.tokens_per_s),
            single_latency_ms=min(expected.single_latency_ms, plain.single_latency_ms),
        )

    def _expected(self, candidate: Candidate) -> Forecast:
        deployment, shape = self._deployment(candidate), self._shape()
        found = predict(self.spec, self.machine, deployment, shape)
        cached = shape.cached_prefix_len if candidate.enable_prefix_caching else 0.0
        return Forecast(
            tokens_per_s=found.tokens_per_s or SLOWEST,
            single_latency_ms=self._single_latency_ms(found, deployment, shape),
            memory_bytes=found.memory.weights_bytes + found.memory.draft_bytes + found.memory.kv_pool_bytes,
            binds=found.binds,
            steps=1 / min(candidate.max_num_seqs, self.workload.users),
            prompt_tokens=(shape.prompt_len - cached) / shape.output_len,
            answer_len=shape.output_len,
            weight_bytes=found.memory.weights_bytes,
        )

    def _single_latency_ms(self, found: Prediction, deployment: Deployment, shape: TrafficShape) -> float:
        if found.prefill_ms is None or found.decode_ms is None:
            return 1e3 / SLOWEST
        alone = predict(self.spec, self.machine, deployment, replace(shape, concurrency=1))
        if alone.e2el_ms is not None:
            return alone.e2el_ms
        return found.prefill_ms + found.decode_ms * shape.output_len / deployment.tokens_a_step

    def _shape(self) -> TrafficShape:
        workload = self.workload
        return TrafficShape(
            prompt_len=max(1.0, workload.prompt_len),
            output_len=max(1.0, workload.output_len),
            cached_prefix_len=min(workload.repeated_len, workload.prompt_len - 1),
            concurrency=workload.users,
        )

    def _deployment(self, candidate: Candidate) -> Deployment:
        quantization = self.stored if candidate.quantization == "auto" else candidate.quantization
        return Deployment(
            quantization=quantization,
            kv_cache_dtype=candidate.kv_cache_dtype,
            max_model_len=self.workload.reader.max_model_len,
            max_num_seqs=candidate.max_num_seqs,
            max_num_batched_tokens=candidate.max_num_batched_tokens,
            block_size=candidate.block_size,
            batching=candidate.batching,
            static_batch_size=candidate.max_num_seqs,
            enable_prefix_caching=candidate.enable_prefix_caching,
            num_kv_blocks=self.pool.num_blocks(candidate),
            speculation=self._speculation(candidate),
            num_threads=candidate.num_threads,
        )

    def _speculation(self, candidate: Candidate) -> SpeculationPlan | None:
        method = candidate.speculation
        if method is None:
            return None
        return SpeculationPlan(method.num_speculative_tokens, ACCEPTANCE)
