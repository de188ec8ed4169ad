"""Section (d): the engine whole, Python and sampling included, beside the floor that bandwidth and arithmetic set."""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import partial
from typing import Any

from gpu.setting import Item, Setting
from gpu.shapes import Engines
from gpu.timing import Ceilings, ceilings_of
from vivace.bench.benchmark import Measurement, measure
from vivace.bench.op_cost import DEVICE
from vivace.bench.workload import Workload
from vivace.engine.loader import LoadedEngine

STREAMS, PROMPTS = (1, 8, 64, 256), (2048, 16384)
PROMPT_LEN, OUTPUT_LEN = 512, 64
RUNS = (
    ("llama-3.1-8b", "bf16", STREAMS, PROMPTS),
    ("llama-3.1-8b", "int4", STREAMS, PROMPTS),
    ("llama-3.2-1b", "bf16", STREAMS, PROMPTS),
    ("llama-3.2-1b", "int4", STREAMS, PROMPTS[:1]),
    ("llama-3.1-8b MHA", "bf16", STREAMS, PROMPTS),
    ("llama-3.1-8b", "w8a8", (1, 64), PROMPTS[:1]),
    ("llama-3.1-8b", "int8", (1, 64), ()),
)
OPTIONS = {"max_model_len": 16_512, "max_num_seqs": 256, "max_num_batched_tokens": 8_192}
TINY_OPTIONS = {"max_model_len": 64, "max_num_seqs": 4, "max_num_batched_tokens": 64, "num_kv_blocks": 64}
LOADING_S, LOADED_S = 50.0, 25.0


def end_to_end_items(setting: Setting) -> Iterator[Item]:
    """Items of one model follow each other: it is loaded once."""
    engines, ceilings = Engines(setting), ceilings_of(setting)
    for shape, quantization, streams, prompts in RUNS[:1] if setting.is_tiny else RUNS:
        get = partial(engines.get, shape, quantization=quantization, **(TINY_OPTIONS if setting.is_tiny else OPTIONS))
        for count in (1, 3) if setting.is_tiny else streams:
            key = f"{shape} {quantization} decode {count}"
            lasts_s = LOADING_S if count == 1 else LOADED_S
            yield Item(key, partial(decode, setting, ceilings, get, count), lasts_s)
        for length in (24,) if setting.is_tiny else prompts:
            key = f"{shape} {quantization} prefill {length}"
            yield Item(key, partial(prefill, setting, ceilings, get, length), LOADED_S)


def decode(setting: Setting, ceilings: Ceilings, get: Any, streams: int) -> dict[str, Any]:
    """`streams` prompts together, then their answers. The step is the median gap between a stream's tokens."""
    started = time.perf_counter()
    loaded: LoadedEngine = get()
    loading_s = time.perf_counter() - started
    config = loaded.engine.config
    fits = config.num_kv_blocks * config.block_size // streams - OUTPUT_LEN - config.block_size
    prompt_len, output_len = (16, 8) if setting.is_tiny else (min(PROMPT_LEN, fits), OUTPUT_LEN)
    found = _measured(setting, loaded, Workload(streams, prompt_len, output_len))
    gaps = found.latencies_ms["itl_ms"]
    assert gaps is not None  # there is more than one token
    context = prompt_len + output_len / 2
    num_bytes = found.cost.decode_bytes(streams, context)
    operations = streams * found.cost.decode_operations(context)
    unit = DEVICE.unit(loaded.parameters.layers[0].q.layout)
    floor_s, bound = ceilings.floor_s(num_bytes, operations, unit)
    step_s = gaps.median / 1e3
    return {
        "error": None,
        "streams": streams,
        "prompt_len": prompt_len,
        "step_ms": gaps.median,
        "step_ms_p90": gaps.p90,
        "step_ms_p99": gaps.p99,
        "tokens_per_s": streams / step_s,
        "gb_per_s": num_bytes / step_s / 1e9,
        "tflop_per_s": operations / step_s / 1e12,
        "floor_ms": 1e3 * floor_s,
        "bound": bound,
        "over_floor": step_s / floor_s,
        "bandwidth_share": num_bytes / step_s / ceilings.bytes_per_s,
        "loading_s": loading_s,
        "weight_bytes": loaded.weight_bytes,
        "measurement": found.record(),
    }


def prefill(setting: Setting, ceilings: Ceilings, get: Any, length: int) -> dict[str, Any]:
    """One prompt alone: the time to its first token."""
    loaded: LoadedEngine = get()
    found = _measured(setting, loaded, Workload(1, length, 1))
    first = found.latencies_ms["ttft_ms"]
    assert first is not None
    operations = found.cost.prefill_operations(length)
    unit = DEVICE.unit(loaded.parameters.layers[0].q.layout)
    floor_s, bound = ceilings.floor_s(found.cost.matrix_bytes, operations, unit)
    seconds = first.median / 1e3
    return {
        "error": None,
        "ttft_ms": first.median,
        "ttft_ms_max": first.maximum,
        "tokens_per_s": length / seconds,
        "tflop_per_s": operations / seconds / 1e12,
        "floor_ms": 1e3 * floor_s,
        "bound": bound,
        "over_floor": seconds / floor_s,
        "measurement": found.record(),
    }


def _measured(setting: Setting, loaded: LoadedEngine, workload: Workload) -> Measurement:
    repeats = 2 if workload.num_requests >= 64 or setting.is_tiny else 3
    return measure(
        loaded, workload, warm_up=1, repeats=repeats, seed=setting.seed, clock=time.perf_counter, probe=None
    )
