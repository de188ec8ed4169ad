"""Times of steps on this machine, from which efficiencies are fitted: small models of random weights, some tens of
steps of each shape.

One model streams its weights from memory, the other's stay in the caches: between them lies what reading costs.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from vivace.backends.cpu.backend import CpuBackend
from vivace.bench.engine_step import admission_overhead, engine_overhead
from vivace.bench.op_cost import op_cost
from vivace.bench.profile_step import Phase, ProfileProgram, profile_program, step_inputs
from vivace.core.config import EngineConfig, KVDtype
from vivace.core.sampling import SamplingParams
from vivace.engine.engine import Engine
from vivace.engine.loader import LoadedEngine, load_engine
from vivace.models.parameters import dummy_parameters
from vivace.ops.backend import Float64Array, KVSpec

LAYOUTS = ("q4_0", "q8_0", "bf16", "int8_channel", "int4_g128", "q4_k", "q6_k", "f32")
KV_DTYPES: tuple[KVDtype, ...] = ("bf16", "int8_per_token_head", "int4_per_token_head", "int4_k_per_channel")
# Shapes that no published model has: what is predicted is never what was measured.
STREAMED = {
    "model_type": "llama",
    "vocab_size": 32_768,
    "hidden_size": 1_536,
    "intermediate_size": 6_144,
    "num_hidden_layers": 3,
    "num_attention_heads": 24,
    "num_key_value_heads": 4,
    "max_position_embeddings": 4_096,
    "tie_word_embeddings": True,
}
CACHED = STREAMED | {
    "vocab_size": 2_048,
    "hidden_size": 512,
    "intermediate_size": 1_024,
    "num_hidden_layers": 3,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
}
NARROW = CACHED | {"hidden_size": 256, "intermediate_size": 768, "num_attention_heads": 4, "num_key_value_heads": 4}
ROUNDS = 2  # of everything, one after the other: what disturbs a machine lasts seconds
DECODE_STREAMS = (1, 2, 3, 6, 12, 24, 48)
PREFILL_TOKENS = (96, 448)
ATTENTION_PHASES = (Phase("alone", 1, 1, 96), Phase("deep", 1, 1, 3_000), Phase("wide", 12, 1, 1_000))
CHUNK_PHASES = (Phase("chunk", 1, 96, 1_024), Phase("long chunk", 1, 384, 1_024))
OVERHEAD_STREAMS = (1, 8, 32)
THREAD_PHASE = Phase("threads", 1, 96, 0)
THREAD_ROUNDS = 9
SHALLOW = 32  # tokens of context where products are measured
CACHED_STREAMS = 4
CACHED_ATTENTION_PHASES = (
    Phase("shallow", CACHED_STREAMS, 1, SHALLOW),
    Phase("cached", CACHED_STREAMS, 1, 512),
)
SHORT_PROMPT, LONG_PROMPT = 16, 1_024
WAKING_PROMPT, WAKING_STEPS, WAKING_ROUNDS, PAUSE_S = 64, 4, 13, 0.05
REPEATS, FEW_REPEATS = 11, 3
READ_BYTES, READ_REPETITIONS = 1 << 27, 2
PEAK_ITERATIONS = 250_000  # 1 ms

_OTHER_MEMORY = np.ones(1 << 17)  # 1 MB

Clock = Callable[[], float]


@dataclass(frozen=True, slots=True)
class Work:
    """A part of a step: seconds, and what was done in them."""

    seconds: float = 0.0
    num_bytes: float = 0.0
    operations: float = 0.0
    num_ops: int = 0

    def __add__(self, other: Work) -> Work:
        return Work(
            self.seconds + other.seconds,
            self.num_bytes + other.num_bytes,
            self.operations + other.operations,
            self.num_ops + other.num_ops,
        )


@dataclass(frozen=True, slots=True)
class StepSample:
    """One shape of step, measured. `small` are the products of attention's output, `products` all others of the
    layers, `rows` everything that is neither a product nor attention; `width` is the model's hidden size,
    `group` its query heads for each head of keys.
    `read_bytes_per_s`: a plain read of memory just before and after; `peak_per_s`: multiply-adds in registers.
    `python_s` and `sampling_s`: of the engine, None where they were not measured."""

    layout: str
    kv_dtype: str
    is_cached: bool
    num_streams: int
    num_new: int
    depth: int
    vocab_size: int
    width: int
    group: int
    read_bytes_per_s: float
    peak_per_s: float
    products: Work
    small: Work
    head: Work
    attention: Work
    rows: Work
    python_s: float | None = None
    sampling_s: float | None = None


@dataclass(frozen=True, slots=True)
class RequestCosts:
    """Seconds of the engine for a request that comes, for each token of its prompt, and by which its first steps
    take longer after a pause."""

    request_s: float
    token_s: float
    wake_s: float


def measure_steps(
    backend: CpuBackend,
    clock: Clock,
    *,
    layouts: tuple[str, ...] = LAYOUTS,
    kv_dtypes: tuple[KVDtype, ...] = KV_DTYPES,
    rounds: int = ROUNDS,
    progress: Callable[[int, int], None] | None = None,
) -> list[StepSample]:
    """Some 4 s a layout on two cores. `progress(done, total)` counts models."""
    models = list(_models(backend, layouts, kv_dtypes))
    samples: list[StepSample] = []
    for index in range(rounds * len(models)):
        samples.extend(_measured(models[index % len(models)], clock))
        if progress is not None:
            progress(index + 1, rounds * len(models))
    return samples


@dataclass(frozen=True, slots=True)
class _Model:
    """A program ready to run, and the steps to measure with it."""

    loaded: LoadedEngine
    program: ProfileProgram
    phases: tuple[Phase, ...]
    is_cached: bool
    with_engine: bool = False


def measure_threads(backend: CpuBackend, clock: Clock) -> dict[int, tuple[float, float]]:
    """By fewer threads than `backend` has: (arithmetic, read rate) as shares of what all reach. Empty for one."""
    counts = sorted({1, backend.num_threads // 2} - {0, backend.num_threads})
    engines = {count: _thread_engine(backend, count) for count in (*counts, backend.num_threads)}
    rates: dict[int, list[tuple[float, float]]] = {count: [] for count in engines}
    for _ in range(THREAD_ROUNDS):  # in turn: what disturbs a machine lasts longer than one of them
        for count, (loaded, program) in engines.items():
            assert isinstance(loaded.backend, CpuBackend)  # made by _load
            rates[count].append((_step_rate(loaded, program, clock), _read_rate(loaded.backend)))
    compute, read = (
        {count: statistics.median(pair[part] for pair in pairs) for count, pairs in rates.items()} for part in (0, 1)
    )
    most = backend.num_threads
    return {count: (min(1.0, compute[count] / compute[most]), min(1.0, read[count] / read[most])) for count in counts}


def measure_requests(backend: CpuBackend, clock: Clock, sleep: Callable[[float], None] = time.sleep) -> RequestCosts:
    """What a request costs beside its steps, and what a pause before it does, about 2 s."""
    loaded = _load(backend, CACHED)
    program = profile_program(loaded, [Phase("admission", 1, LONG_PROMPT, 0)])
    short_s, long_s = (admission_overhead(loaded, program, length, clock) for length in (SHORT_PROMPT, LONG_PROMPT))
    token_s = max(0.0, (long_s - short_s) / (LONG_PROMPT - SHORT_PROMPT))
    decode = Phase("decode", 1, 1, SHALLOW)
    step_s = engine_overhead(loaded, profile_program(loaded, [decode]), decode, clock).python_s
    request_s = max(0.0, short_s - SHORT_PROMPT * token_s - step_s)
    return RequestCosts(request_s, token_s, _wake_s(loaded.engine, clock, sleep))


def _wake_s(engine: Engine, clock: Clock, sleep: Callable[[float], None]) -> float:
    """By how much a request of a few steps takes longer after a pause: the median of neighbours' differences."""
    differences = []
    params = SamplingParams(max_tokens=WAKING_STEPS, temperature=0.0, ignore_eos=True)
    for number in range(2 * WAKING_ROUNDS):
        if number % 2:
            sleep(PAUSE_S)
        started = clock()
        engine.add(str(number), [(place * place + number) % 1_000 for place in range(WAKING_PROMPT)], params)
        while engine.num_unfinished:
            engine.step()
        differences.append(clock() - started)
        engine.forget(str(number))
    pairs = zip(differences[1::2], differences[::2], strict=True)
    return max(0.0, statistics.median(after - before for after, before in pairs))


def _thread_engine(backend: CpuBackend, num_threads: int) -> tuple[LoadedEngine, ProfileProgram]:
    loaded = _load(CpuBackend(num_threads=num_threads, isa=backend.isa), CACHED)
    return loaded, profile_program(loaded, [THREAD_PHASE])


def _step_rate(loaded: LoadedEngine, program: ProfileProgram, clock: Clock) -> float:
    """Steps a second over weights in the caches."""
    inputs = step_inputs(THREAD_PHASE, loaded.kv_spec.block_size, loaded.spec.vocab_size)
    program.executable.run(inputs)
    started = clock()
    program.executable.run(inputs)
    return 1 / (clock() - started)


def _models(backend: CpuBackend, layouts: tuple[str, ...], kv_dtypes: tuple[KVDtype, ...]) -> Iterator[_Model]:
    products = (
        *(Phase("decode", count, 1, SHALLOW) for count in DECODE_STREAMS),
        *(Phase("prefill", 1, count, 0) for count in PREFILL_TOKENS),
    )
    engine = tuple(Phase("decode", count, 1, SHALLOW) for count in OVERHEAD_STREAMS)
    for shape in (NARROW, CACHED, STREAMED):
        loaded = _load(backend, shape)
        is_cached = shape is not STREAMED
        for layout in layouts:
            parameters = dummy_parameters(loaded.spec, backend, layout)
            if parameters.layers[0].q.layout == layout:
                yield _model(replace(loaded, parameters=parameters), products, is_cached)
        if shape is CACHED:
            yield replace(_model(loaded, engine, is_cached), with_engine=True)
        phases = CACHED_ATTENTION_PHASES if is_cached else (*ATTENTION_PHASES, *CHUNK_PHASES)
        for dtype in kv_dtypes:
            kv = loaded.kv_spec
            other = KVSpec(kv.num_layers, kv.num_kv_heads, kv.head_dim, kv.block_size, dtype)
            # Keys that are rounded by the block remember where each block began: phases over the same blocks clash.
            for together in ((phase,) for phase in phases) if other.recent_bytes_per_block else (phases,):
                yield _model(replace(loaded, kv_spec=other), together, is_cached)


def _model(loaded: LoadedEngine, phases: tuple[Phase, ...], is_cached: bool) -> _Model:
    return _Model(loaded, profile_program(loaded, list(phases)), phases, is_cached)


def _measured(model: _Model, clock: Clock) -> Iterator[StepSample]:
    for phase in model.phases:
        sample = _sample(model.loaded, model.program, phase, model.is_cached)
        if model.with_engine:
            engine = engine_overhead(model.loaded, model.program, phase, clock)
            sample = replace(sample, python_s=engine.python_s, sampling_s=engine.sampling_s)
        yield sample


def _load(backend: CpuBackend, shape: dict[str, object]) -> LoadedEngine:
    """int8 weights; the caller puts others in their place."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "config.json"
        path.write_text(json.dumps(shape))
        config = EngineConfig(
            load_format="dummy",
            config=str(path),
            quantization="int8",
            num_threads=backend.num_threads,
            instruction_set=backend.isa,
            max_num_seqs=max(OVERHEAD_STREAMS),
            num_kv_blocks=4_096,
        )
        return load_engine(config)


def _sample(loaded: LoadedEngine, program: ProfileProgram, phase: Phase, is_cached: bool) -> StepSample:
    backend = loaded.backend
    assert isinstance(backend, CpuBackend)  # made by _load
    inputs = step_inputs(phase, loaded.kv_spec.block_size, loaded.spec.vocab_size)
    repeats = FEW_REPEATS if phase.num_new > 1 and not is_cached else REPEATS
    program.executable.run(inputs)
    reads = [] if is_cached else [_read_rate(backend)]
    peaks = [clock_rate(backend)]
    timed = []
    for _ in range(repeats):
        touch_other_memory()
        timed.append(program.executable.run_timed(inputs))
    reads.append(_read_rate(backend))
    peaks.append(clock_rate(backend))
    seconds = _typical(np.array(timed))[:-1]
    parts = {name: Work() for name in ("products", "small", "head", "attention", "rows")}
    for op, took in zip(program.ops, seconds, strict=True):
        cost = op_cost(op, phase.shape, loaded.kv_spec)
        parts[_part(cost.role)] += Work(float(took), cost.num_bytes, cost.operations, 1)
    return StepSample(
        layout=loaded.parameters.layers[0].q.layout,
        kv_dtype=loaded.kv_spec.dtype,
        is_cached=is_cached,
        num_streams=phase.num_streams,
        num_new=phase.num_new,
        depth=phase.depth,
        vocab_size=loaded.spec.vocab_size,
        width=loaded.spec.hidden_size,
        group=loaded.spec.num_heads // loaded.spec.num_kv_heads,
        read_bytes_per_s=statistics.mean(reads),
        peak_per_s=statistics.mean(peaks),
        products=parts["products"],
        small=parts["small"],
        head=parts["head"],
        attention=parts["attention"],
        rows=parts["rows"],
    )


def _part(role: str) -> str:
    if role == "lm_head":
        return "head"
    if role == "attention":
        return role
    if role == "o":
        return "small"
    return "products" if role in ("qkv", "gate_up", "down") else "rows"


def _typical(timed_RN: Float64Array) -> Float64Array:
    """The median of the runs, operation by operation: what a step takes as a rule, neighbours included."""
    median: Float64Array = np.median(timed_RN, axis=0)
    return median


def clock_rate(backend: CpuBackend, probes: int = 2) -> float:
    """Float32 operations a second in registers, by all threads: the cores' clock. The best of some milliseconds, for
    neighbours only ever make it less."""
    return max(backend.device.measure_peak("f32", PEAK_ITERATIONS) for _ in range(probes))


def touch_other_memory() -> None:
    """What the engine's own work does to this core's caches between two steps: without it small models are measured
    up to a third too fast."""
    _OTHER_MEMORY.sum()


def _read_rate(backend: CpuBackend) -> float:
    return backend.device.measure_read_bandwidth(READ_BYTES, READ_REPETITIONS)
