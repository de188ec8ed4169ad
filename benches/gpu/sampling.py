"""Choosing tokens from logits on the device, by the host's clock: the one array that comes back is waited for."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import torch

from gpu.program_bench import reference_backend
from gpu.setting import Item, Setting
from gpu.timing import Ceilings, peer_seconds, rates, spread
from vivace.ops.backend import SampleInputs

VOCABULARY, TINY_VOCABULARY = 128_256, 97
CHECKED_ROWS = 4  # the reference is slow
NO_TOKENS = np.zeros(0, np.int32)
# temperature, top_k, top_p, min_p, repetition penalty
WAYS: dict[str, tuple[float, int, float, float, float]] = {
    "greedy": (0.0, 0, 1.0, 0.0, 1.0),
    "temperature": (1.0, 0, 1.0, 0.0, 1.0),
    "top-k and top-p": (0.8, 40, 0.9, 0.0, 1.0),
    "top-p and penalties": (0.8, 0, 0.95, 0.0, 1.2),
}


def sampling_items(setting: Setting, ceilings: Ceilings) -> Iterator[Item]:
    for way in WAYS:
        for num_rows in (2,) if setting.is_tiny else (1, 64, 256):
            key = f"sampling {way} {num_rows} rows"
            yield Item(key, partial(measure_sampling, setting, ceilings, way, num_rows), 5.0)


def measure_sampling(setting: Setting, ceilings: Ceilings, way: str, num_rows: int) -> dict[str, Any]:
    """`share`: of one read of the logits. The peer finds the largest of each row and sends it to the host."""
    vocabulary = TINY_VOCABULARY if setting.is_tiny else VOCABULARY
    rng = np.random.default_rng([setting.seed, num_rows, *way.encode()])
    logits_SV = rng.standard_normal((num_rows, vocabulary), dtype=np.float32) * np.float32(4)
    inputs = sample_inputs(way, num_rows, vocabulary, rng)
    backend = setting.backend()
    on_device = torch.from_numpy(logits_SV).to(setting.torch_device)
    tokens = backend.sample(on_device, inputs)
    checked = min(num_rows, CHECKED_ROWS)
    expected = reference_backend().sample(logits_SV[:checked], first_rows(inputs, checked))
    num_wrong = int((np.asarray(tokens)[:checked] != expected).sum())
    seconds, largest = [], []
    for _ in range(setting.rounds):
        backend.synchronize()
        started = time.perf_counter()
        backend.sample(on_device, inputs)
        seconds.append(time.perf_counter() - started)
        largest.extend(peer_seconds(setting, [partial(torch.argmax, on_device, 1)]))
    median = statistics.median(seconds)
    return {
        "error": None,
        "num_wrong": num_wrong,
        "is_right": num_wrong == 0,
        **spread(seconds),
        **rates(median, float(logits_SV.nbytes), 0.0, "f32", ceilings),
        "peers": {"argmax alone": spread(largest)},
        "refused": {},
    }


def sample_inputs(way: str, num_rows: int, vocabulary: int, rng: np.random.Generator) -> SampleInputs:
    """Rows alike but for their random numbers; 64 tokens of history each where they are penalised."""
    temperature, top_k, top_p, min_p, repetition = WAYS[way]

    def each(value: float, dtype: type = np.float32) -> Any:
        return np.full(num_rows, value, dtype)

    length = 0 if repetition == 1.0 else min(64, vocabulary)
    history = [rng.choice(vocabulary, length, replace=False) for _ in range(num_rows)]
    return SampleInputs(
        temperature_S=each(temperature),
        top_k_S=each(top_k, np.int32),
        top_p_S=each(top_p),
        min_p_S=each(min_p),
        repetition_S=each(repetition),
        presence_S=each(0.0),
        frequency_S=each(0.0),
        uniform_S=rng.random(num_rows, dtype=np.float32),
        history_starts_S1=np.arange(num_rows + 1, dtype=np.int32) * np.int32(length),
        history_tokens=np.concatenate(history).astype(np.int32) if length else NO_TOKENS,
        history_counts=np.ones(num_rows * length, np.int32),
        bias_starts_S1=np.zeros(num_rows + 1, np.int32),
        bias_tokens=NO_TOKENS,
        bias_values=np.zeros(0, np.float32),
    )


def first_rows(inputs: SampleInputs, count: int) -> SampleInputs:
    """Of the first `count` rows; what they share is longer than they need."""
    cut = {
        name: getattr(inputs, name)[: count + 1 if name.endswith("S1") else count]
        for name in SampleInputs.__slots__
        if name.endswith(("_S", "_S1")) and getattr(inputs, name) is not None and len(getattr(inputs, name))
    }
    kept = {name: getattr(inputs, name) for name in SampleInputs.__slots__ if name not in cut}
    return SampleInputs(**cut, **kept)
