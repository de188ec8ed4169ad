"""How near its ceilings a GPU comes: steps of small models of random weights, timed operation by operation.

Each figure is read off the step in which it rules, as on a processor (`calibration`): bytes of weights from one row
over layers that no cache holds, arithmetic from many rows, keys from long contexts, overheads from the smallest
operations. Times are the device's own, of operations that follow each other as in a CUDA graph.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vivace.bench.engine_step import EngineOverhead, engine_overhead
from vivace.bench.profile_step import Phase, profile_program
from vivace.core.config import EngineConfig
from vivace.engine.loader import LoadedEngine, load_engine
from vivace.models.parameters import dummy_parameters
from vivace.ops.backend import MeasuredCeilings
from vivace.plan.hardware import GPU_EFFICIENCY
from vivace.plan.machine import Efficiency, RateCurve, WidthRates
from vivace.plan.measurement import Work, timed_parts
from vivace.plan.step_time import FLOAT_BYTES, row_floats

MOST_SHARE = 1.5  # of a ceiling: more is a disturbed measurement
LEAST_SHARE = 0.01


@dataclass(frozen=True, slots=True)
class GpuTrials:
    """What is measured. Two layers of `shape` are several times a GPU's second-level cache in every layout; `small`'s
    products are over before they have begun."""

    shape: Mapping[str, Any]
    small: Mapping[str, Any]
    context: Phase
    layouts: tuple[str, ...] = ("bf16", "int4_g128", "int8_channel", "q8_0", "q4_k", "fp8_channel")
    rows: tuple[int, ...] = (512, 2048)  # of prompts: enough that arithmetic rules
    streams: tuple[int, int] = (1, 64)  # between which the engine's own work is measured
    repeats: int = 15


_LLAMA_8B = {
    "model_type": "llama",
    "vocab_size": 32_768,
    "hidden_size": 4_096,
    "intermediate_size": 14_336,
    "num_hidden_layers": 2,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "max_position_embeddings": 8_192,
    "tie_word_embeddings": True,
}
_SMALL = _LLAMA_8B | {
    "vocab_size": 2_048,
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 1_024,
}
TRIALS = GpuTrials(_LLAMA_8B, _SMALL, Phase("context", 32, 1, 4_000))


def measure_gpu(
    config: EngineConfig,
    ceilings: MeasuredCeilings,
    *,
    trials: GpuTrials = TRIALS,
    clock: Callable[[], float] = time.perf_counter,
    progress: Callable[[int, int], None] | None = None,
) -> Efficiency:
    """On the device of `config`, whose `ceilings` were measured just now: some seconds a layout."""
    total, done = len(trials.layouts) + 2, 0

    def told(result: Any) -> Any:
        nonlocal done
        done += 1
        if progress is not None:
            progress(done, total)
        return result

    loaded = _load(config, trials.shape, trials)
    few = Phase("decode", 1, 1, 0)
    tried = {layout: told(_products(loaded, layout, trials, few)) for layout in trials.layouts}
    products = {layout: timed for layout, timed in tried.items() if timed is not None}
    deep = told(_parts(loaded, trials.context, trials.repeats))
    small = _load(config, trials.small, trials)
    costs = told([_engine(small, streams, clock) for streams in trials.streams])
    return _fitted(loaded, products, deep, _parts(small, few, trials.repeats), costs, ceilings, trials)


def _fitted(
    loaded: LoadedEngine,
    products: Mapping[str, Mapping[int, dict[str, Work]]],
    deep: Mapping[str, Work],
    small: Mapping[str, Work],
    costs: list[EngineOverhead],
    ceilings: MeasuredCeilings,
    trials: GpuTrials,
) -> Efficiency:
    read, width, prompt = ceilings.read_bytes_per_s, loaded.spec.hidden_size, max(trials.rows)
    op_s = small["rows"].seconds / small["rows"].num_ops
    small_products = small["products"] + small["small"]
    bandwidth = {layout: _share(_rate(timed[1], "num_bytes"), read) for layout, timed in products.items()}
    rates = {
        layout: WidthRates(
            (width,), (RateCurve(trials.rows, tuple(_rate(timed[n], "operations") for n in trials.rows)),)
        )
        for layout, timed in products.items()
    }
    first = products["bf16"][prompt]
    rows_s = max(first["rows"].seconds - op_s * first["rows"].num_ops, first["rows"].seconds / 2)
    few, many = costs
    sequences = trials.streams[1] - trials.streams[0]
    sequence_s = max(0.0, (many.python_s - few.python_s) / sequences)
    day = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())
    return replace(
        GPU_EFFICIENCY,
        basis=f"measured here on {day}: products in {len(products)} layouts, attention, and the engine's own work",
        is_measured=True,
        bandwidth={"": bandwidth["bf16"], **bandwidth},
        rates=rates,
        kv_bandwidth=_share(deep["attention"].num_bytes / deep["attention"].seconds, read),
        attention_arithmetic=_share(
            first["attention"].operations / first["attention"].seconds, ceilings.operations_per_s["bf16"]
        ),
        row_bytes_per_s=prompt * row_floats(loaded.spec) * FLOAT_BYTES / rows_s,
        op_s=op_s,
        product_op_s=min(small_products.seconds / small_products.num_ops, 20 * op_s),
        step_s=max(0.0, few.python_s - sequence_s * trials.streams[0]) + few.sampling_s,
        sequence_s=sequence_s,
        logit_s=max(0.0, (many.sampling_s - few.sampling_s) / (sequences * trials.small["vocab_size"])),
    )


def _products(loaded: LoadedEngine, layout: str, trials: GpuTrials, few: Phase) -> dict[int, dict[str, Work]] | None:
    """By rows; None for a layout that the device or these widths do not have."""
    parameters = dummy_parameters(loaded.spec, loaded.backend, layout)
    if parameters.layers[0].q.layout != layout:
        return None
    other = replace(loaded, parameters=parameters)
    phases = [few, *(Phase("prefill", 1, rows, 0) for rows in trials.rows)]
    return {phase.num_new: _parts(other, phase, trials.repeats) for phase in phases}


def _parts(loaded: LoadedEngine, phase: Phase, repeats: int) -> dict[str, Work]:
    program = profile_program(loaded, [phase])
    timed_parts(loaded, program, phase, 2)  # libraries choose kernels, Triton compiles
    return timed_parts(loaded, program, phase, repeats)


def _engine(loaded: LoadedEngine, num_streams: int, clock: Callable[[], float]) -> EngineOverhead:
    phase = Phase("engine", num_streams, 1, 0)
    return engine_overhead(loaded, profile_program(loaded, [replace(phase, depth=32)]), phase, clock)


def _load(config: EngineConfig, shape: Mapping[str, Any], trials: GpuTrials) -> LoadedEngine:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "config.json"
        path.write_text(json.dumps(shape))
        return load_engine(
            replace(
                config,
                load_format="dummy",
                config=str(path),
                quantization="bf16",
                max_num_seqs=max(trials.streams),
                num_kv_blocks=max(trials.streams) * 4,
                cuda_graph_capture="first_use",
            )
        )


def _rate(timed: Mapping[str, Work], what: str) -> float:
    work = timed["products"] + timed["small"]
    rate: float = getattr(work, what) / work.seconds
    return rate


def _share(rate: float, ceiling: float) -> float:
    return min(MOST_SHARE, max(LEAST_SHARE, rate / ceiling))
