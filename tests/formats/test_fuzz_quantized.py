"""Thousands of broken quantised checkpoints: each is read or refused with a ModelFileError, never anything else.

VIVACE_FUZZ_SEED and VIVACE_FUZZ_COUNT choose others.
"""

from __future__ import annotations

import copy
import json
import os
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save
from test_quantized_checkpoint import KINDS, MODULE

from vivace.core.errors import ModelFileError
from vivace.formats.quantized_checkpoint import with_quantized_weights
from vivace.formats.safetensors import SafetensorsFile

SEED = int(os.environ.get("VIVACE_FUZZ_SEED", "6"))
COUNT = int(os.environ.get("VIVACE_FUZZ_COUNT", "400"))
JUNK: list[Any] = [
    None,
    True,
    False,
    0,
    -1,
    1,
    3,
    8,
    64,
    2**31,
    2**63,
    -(2**70),
    1.5,
    1e308,
    "",
    "x",
    "group",
    [],
    {},
]
JUNK += [["re:.*"], [1], {"a": 1}, "gptq", "awq", "gptq_v2", "int-quantized", [[[]]], {"re:": {"bits": 8}}]


def broken_config(rng: random.Random, config: dict[str, Any]) -> dict[str, Any]:
    """One value somewhere in the tree replaced, removed or added."""
    config = copy.deepcopy(config)
    place = config
    while True:
        key = rng.choice([*place, "dynamic", "format", "ignore"])
        inner = place.get(key)
        if isinstance(inner, dict) and inner and rng.random() < 0.8:
            place = inner
        elif rng.random() < 0.2:
            place.pop(key, None)
            return config
        else:
            place[key] = rng.choice(JUNK)
            return config


def broken_arrays(rng: random.Random, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    arrays = dict(arrays)
    name = rng.choice(list(arrays))
    array = np.array(arrays[name], order="C")
    kind = rng.randrange(6)
    if kind == 0:
        del arrays[name]
        return arrays
    if kind == 1 and array.ndim:
        array = np.take(array, range(rng.randint(0, array.shape[-1])), axis=-1)
    elif kind == 2:
        array = array.astype(rng.choice(["<i4", "<i8", "<f2", "<f4", "<f8", "i1", "u1", "<u2", "?"]))
    elif kind == 3:
        array = array.reshape(rng.choice([(-1,), (1, -1), (-1, 1), (1, -1, 1)]))
    elif kind == 4 and array.size:
        array.reshape(-1).view(np.uint8)[rng.randrange(array.nbytes)] ^= 1 << rng.randrange(8)
    elif array.size:
        array.reshape(-1)[rng.randrange(array.size)] = rng.choice([0, 1, 100]) if array.dtype.kind != "f" else np.nan
    other = rng.choice([name, name, name, "weight", "qweight", "scales", "bias", "g_idx", "weight_g_idx"])
    return arrays | {other: np.ascontiguousarray(array) if array.ndim else array}


def broken_bytes(rng: random.Random, data: bytes) -> bytes:
    kind = rng.random()
    if kind < 0.7:
        return data
    if kind < 0.85:
        return data[: rng.randrange(len(data))]
    octets = bytearray(data)
    octets[rng.randrange(len(octets))] ^= 1 << rng.randrange(8)
    return bytes(octets)


@pytest.mark.parametrize("kind", KINDS)
def test_broken_checkpoints(tmp_path: Path, kind: str) -> None:
    rng = random.Random(f"{SEED} {kind}")
    outcomes = {"read": 0, "refused": 0}
    for index in range(COUNT):
        config, arrays = KINDS[kind]
        if rng.random() < 0.5:
            config = broken_config(rng, config)
        else:
            with np.errstate(all="ignore"):
                arrays = broken_arrays(rng, arrays)
        (tmp_path / "config.json").write_text(json.dumps({"quantization_config": config}))
        data = broken_bytes(rng, save({f"{MODULE}.{part}": array for part, array in arrays.items()}))
        try:
            file = SafetensorsFile.parse(memoryview(data), "fuzzed")
            sources = with_quantized_weights(tmp_path, dict.fromkeys(file.tensors, file.tensors))
            for name, source in sources.items():
                tensor = source[name]
                assert source.shape(name) == tensor.shape
            outcomes["read"] += 1
        except ModelFileError:
            outcomes["refused"] += 1
        except Exception as error:
            raise AssertionError(f"seed {SEED}, {kind}, number {index}: {config} {arrays.keys()}") from error
    assert min(outcomes.values()) > COUNT / 20, outcomes  # neither everything nor nothing
