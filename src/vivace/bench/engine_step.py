"""What the engine adds to the program of a step: planning, packing, sampling, committing, emitting."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from vivace.bench.profile_step import Phase, ProfileProgram
from vivace.core.sampling import SamplingParams
from vivace.engine.engine import Engine
from vivace.engine.loader import LoadedEngine, make_scheduler
from vivace.engine.model_limits import ModelLimits
from vivace.ops.backend import (
    Backend,
    Executable,
    Float32Array,
    Float64Array,
    Int32Array,
    SampleInputs,
    StepInputs,
    TopLogprobs,
    UInt64Array,
)
from vivace.runtime.batch import BatchBuilder
from vivace.runtime.runner import Runner

ADMISSIONS = 11
DECODE_STEPS = 24  # the median of so many tells 0.1 ms apart on a busy machine


@dataclass(frozen=True, slots=True)
class EngineOverhead:
    """Seconds of one step: in Python, and in the sampler."""

    python_s: float
    sampling_s: float

    @property
    def total_s(self) -> float:
        return self.python_s + self.sampling_s


class TimedModel:
    """Stands where the executable and the backend stand, and adds up the time spent in each."""

    def __init__(self, executable: Executable, backend: Backend, clock: Callable[[], float]) -> None:
        self.run_s = 0.0
        self.sampling_s = 0.0
        self._executable = executable
        self._backend = backend
        self._clock = clock

    def run(self, inputs: StepInputs) -> Any:
        started = self._clock()
        result = self._executable.run(inputs)
        self._backend.synchronize()
        self.run_s += self._clock() - started
        return result

    def run_timed(self, inputs: StepInputs) -> Float64Array:
        return self._executable.run_timed(inputs)

    def states(self) -> Any:
        return self._executable.states()

    def uniforms(self, seed_S: UInt64Array, index_S: Int32Array, position_S: Int32Array) -> Float32Array:
        return self._backend.uniforms(seed_S, index_S, position_S)

    def sample(self, logits: Any, inputs: SampleInputs) -> Int32Array:
        started = self._clock()
        result = self._backend.sample(logits, inputs)
        self.sampling_s += self._clock() - started
        return result

    def top_logprobs(self, logits: Any, tokens_S: Int32Array, k: int) -> TopLogprobs:
        return self._backend.top_logprobs(logits, tokens_S, k)


def engine_overhead(
    loaded: LoadedEngine, program: ProfileProgram, phase: Phase, clock: Callable[[], float]
) -> EngineOverhead:
    """Real requests through a second engine over the profile's program. Python's share does not depend on the depth:
    decode starts from prompts of one token."""
    model = TimedModel(program.executable, loaded.backend, clock)
    engine = _engine(loaded, program, phase, model)
    num_steps = DECODE_STEPS if phase.num_new == 1 else 1
    params = SamplingParams(max_tokens=num_steps + 1, temperature=0.0, ignore_eos=True)
    for index in range(phase.num_streams):
        prompt = [(index * phase.num_new + place) % loaded.spec.vocab_size for place in range(phase.num_new)]
        engine.add(f"profile-{index}", prompt, params)
    python, sampling = [], []
    for _ in range(num_steps):
        model.run_s = model.sampling_s = 0.0
        started = clock()
        engine.step()
        python.append(clock() - started - model.run_s - model.sampling_s)
        sampling.append(model.sampling_s)
    return EngineOverhead(statistics.median(python), statistics.median(sampling))


def admission_overhead(
    loaded: LoadedEngine, program: ProfileProgram, num_tokens: int, clock: Callable[[], float]
) -> float:
    """Seconds of Python for a request of so many prompt tokens until its first token: arrival, hashes of its blocks,
    step. The program needs room for all of them in one step."""
    model = TimedModel(program.executable, loaded.backend, clock)
    engine = _engine(loaded, program, Phase("admission", 1, num_tokens, 0), model, enable_prefix_caching=True)
    params = SamplingParams(max_tokens=1, temperature=0.0, ignore_eos=True)
    python = []
    for number in range(ADMISSIONS):
        vocab_size = loaded.spec.vocab_size
        prompt = [(place * place + 7 * number) % vocab_size for place in range(num_tokens)]
        model.run_s = model.sampling_s = 0.0
        started = clock()
        engine.add(f"admission-{number}", prompt, params)
        engine.step()
        python.append(clock() - started - model.run_s - model.sampling_s)
        engine.forget(f"admission-{number}")
    return statistics.median(python)


def _engine(
    loaded: LoadedEngine,
    program: ProfileProgram,
    phase: Phase,
    model: TimedModel,
    *,
    enable_prefix_caching: bool = False,
) -> Engine:
    backend: Any = model
    config = replace(
        loaded.engine.config,
        max_num_seqs=phase.num_streams,
        num_kv_blocks=program.kv_cache.num_blocks,
        max_num_batched_tokens=program.limits.max_tokens,
        batching="continuous",
        enable_prefix_caching=enable_prefix_caching,
    )
    batch = BatchBuilder(config.max_num_seqs, config.max_model_len, config.block_size)
    runner = Runner(backend, model, program.kv_cache, batch, model)
    return Engine(runner, make_scheduler(config), config, ModelLimits(loaded.spec.vocab_size, frozenset()))
