"""Products with matrices of every encoding: the gate and up projections of Llama-3.1-8B side by side."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import torch

from gpu.program_bench import (
    NO_CACHE,
    Peers,
    bfloat16,
    limits_of,
    measured,
    reference_backend,
    relative_error,
    row_step,
    run_on_device,
    verdict,
)
from gpu.setting import Item, Setting
from gpu.timing import Ceilings, Run, copies_of
from vivace.bench.op_cost import StepShape
from vivace.formats.tensor import ENCODINGS, StoredTensor, row_bytes
from vivace.models.dummy import DummyTensors
from vivace.ops import program as ir
from vivace.ops.program import Program

OUTPUTS, INPUTS = 28_672, 4_096
ROWS = (1, 8, 64, 512)
QUERIES_KEYS_VALUES = (4_096, 1_024, 1_024)
JOINED = ("bf16", "int4_g128", "int8_channel", "fp8_channel")
CHECKED = 256  # outputs at either end: the reference is slow
FIRST = ("bf16", "q4_0", "int8_channel", "q8_0", "int8_outlier", "int4_g128", "q4_k", "q6_k")


def product_items(setting: Setting, ceilings: Ceilings) -> Iterator[Item]:
    encodings = sorted(ENCODINGS, key=lambda name: FIRST.index(name) if name in FIRST else len(FIRST))
    for encoding in encodings:
        for num_rows in (1, 3) if setting.is_tiny else ROWS:
            key = f"product {encoding} {num_rows} rows"
            yield Item(key, partial(measure_product, setting, ceilings, encoding, num_rows), 8.0)


def measure_product(setting: Setting, ceilings: Ceilings, encoding: str, num_rows: int) -> dict[str, Any]:
    outputs, inputs = (512, 256) if setting.is_tiny else (OUTPUTS, INPUTS)
    seed = [setting.seed, num_rows, *encoding.encode()]
    stored = DummyTensors(encoding, int(np.random.default_rng(seed).integers(1 << 31))).matrix("m", (outputs, inputs))
    rng = np.random.default_rng(seed)
    step = row_step(bfloat16(rng.standard_normal((num_rows, inputs), dtype=np.float32)))
    backend = setting.backend()
    count = copies_of(outputs * row_bytes(encoding, inputs), setting)
    program, cache = _program(backend, stored, count), backend.kv_cache(NO_CACHE, 1)
    result = run_on_device(backend, program, cache, step)
    executable = backend.compile(program, cache, limits_of(step))
    shape = StepShape((num_rows,), (num_rows,))
    peers = _peers(setting, encoding, (num_rows, outputs, inputs))
    timed = measured(setting, ceilings, executable, program, step, shape, NO_CACHE, (ir.Linear,), peers)
    return verdict(_error(stored, result, step)) | timed | {"runs": backend.kernels.explain()}


def _program(backend: Any, stored: StoredTensor, count: int) -> Program:
    """The same numbers `count` times, each in memory of its own."""
    program = Program()
    x = program.given_states(stored.shape[1])
    for number in range(count):
        out = program.linear(x, [backend.pack(f"m{number}", stored)])
    program.output = program.gather_rows(out)
    return program


def _error(stored: StoredTensor, result: np.ndarray, step: Any) -> float:
    """Of the outputs at both ends, against the reference's product with those rows of the matrix."""
    ends = np.r_[0:CHECKED, stored.shape[0] - CHECKED : stored.shape[0]]
    reference = reference_backend()
    program = _program(reference, stored.select_rows(ends), 1)
    expected = run_on_device(reference, program, reference.kv_cache(NO_CACHE, 1), step)
    return relative_error(result[:, ends], expected)


def joined_items(setting: Setting, ceilings: Ceilings) -> Iterator[Item]:
    """Queries, keys and values of Llama-3.1-8B: three matrices, one launch."""
    for encoding in JOINED:
        for num_rows in (3,) if setting.is_tiny else (1, 64):
            key = f"q, k and v {encoding} {num_rows} rows"
            yield Item(key, partial(measure_joined, setting, ceilings, encoding, num_rows), 8.0)


def measure_joined(setting: Setting, ceilings: Ceilings, encoding: str, num_rows: int) -> dict[str, Any]:
    inputs = 256 if setting.is_tiny else INPUTS
    outputs = (256, 64, 64) if setting.is_tiny else QUERIES_KEYS_VALUES
    tensors = DummyTensors(encoding, setting.seed % 1000)
    stored = [tensors.matrix(f"m{number}", (count, inputs)) for number, count in enumerate(outputs)]
    rng = np.random.default_rng([setting.seed, num_rows, *encoding.encode()])
    step = row_step(bfloat16(rng.standard_normal((num_rows, inputs), dtype=np.float32)))
    backend, reference = setting.backend(), reference_backend()
    num_bytes = sum(outputs) * row_bytes(encoding, inputs)
    program, cache = _joined_program(backend, stored, copies_of(num_bytes, setting)), backend.kv_cache(NO_CACHE, 1)
    result = run_on_device(backend, program, cache, step)
    expected = run_on_device(reference, _joined_program(reference, stored, 1), reference.kv_cache(NO_CACHE, 1), step)
    executable = backend.compile(program, cache, limits_of(step))
    shape = StepShape((num_rows,), (num_rows,))
    peers: Peers = {"cuBLAS bf16": partial(_dense, setting, (num_rows, sum(outputs), inputs))}
    timed = measured(setting, ceilings, executable, program, step, shape, NO_CACHE, (ir.Linear,), peers)
    return verdict(relative_error(result, expected)) | timed | {"runs": backend.kernels.explain()}


def _joined_program(backend: Any, stored: list[StoredTensor], count: int) -> Program:
    program = Program()
    x = program.given_states(stored[0].shape[1])
    for number in range(count):
        out = program.linear(x, [backend.pack(f"{tensor.name}.{number}", tensor) for tensor in stored])
    program.output = program.gather_rows(out)
    return program


def _peers(setting: Setting, encoding: str, size: tuple[int, int, int]) -> Peers:
    found: Peers = {"cuBLAS bf16": partial(_dense, setting, size)}
    if encoding.startswith(("int4_g", "q4_")):
        group = int(encoding.removeprefix("int4_g")) if encoding.startswith("int4_g") else 32
        found["torch int4"] = partial(_int4, setting, size, group)
    if encoding in ("int8_channel", "int8_outlier", "q8_0"):
        found["torch int8 x int8"] = partial(_int8, setting, size)
        found["torch int8 weights"] = partial(_int8_weights, setting, size)
    if "fp8" in encoding:
        found["torch fp8 x fp8"] = partial(_fp8, setting, size)
    return found


def _dense(setting: Setting, size: tuple[int, int, int]) -> list[Run]:
    num_rows, outputs, inputs = size
    device = setting.torch_device
    x = torch.randn((num_rows, inputs), dtype=torch.bfloat16, device=device)
    weights = [
        torch.randn((outputs, inputs), dtype=torch.bfloat16, device=device)
        for _ in range(copies_of(2 * outputs * inputs, setting))
    ]
    return [partial(torch.nn.functional.linear, x, weight) for weight in weights]


def _int4(setting: Setting, size: tuple[int, int, int], group: int) -> list[Run]:
    """tinygemm's layout: groups of 32, 64 or 128 with a scale and a zero in bfloat16."""
    num_rows, outputs, inputs = size
    device = setting.torch_device
    x = torch.randn((num_rows, inputs), dtype=torch.bfloat16, device=device)
    scales = torch.rand((inputs // group, outputs, 2), device=device).bfloat16()
    runs: list[Run] = []
    for _ in range(copies_of(outputs * inputs // 2, setting)):
        codes = torch.randint(0, 256, (outputs, inputs // 2), dtype=torch.uint8, device=device)
        packed = torch.ops.aten._convert_weight_to_int4pack(codes, 8)
        runs.append(partial(torch.ops.aten._weight_int4pack_mm, x, packed, group, scales))
    return runs


def _int8(setting: Setting, size: tuple[int, int, int]) -> list[Run]:
    """cuBLAS wants more than 16 rows. Activations come as codes: finding them is not counted."""
    num_rows, outputs, inputs = size
    x = _codes((max(32, num_rows), inputs), setting)
    return [
        partial(torch._int_mm, x, _codes((outputs, inputs), setting).T)
        for _ in range(copies_of(outputs * inputs, setting))
    ]


def _int8_weights(setting: Setting, size: tuple[int, int, int]) -> list[Run]:
    num_rows, outputs, inputs = size
    device = setting.torch_device
    x = torch.randn((num_rows, inputs), dtype=torch.bfloat16, device=device)
    scales = torch.rand(outputs, device=device).bfloat16()
    return [
        partial(torch.ops.aten._weight_int8pack_mm, x, _codes((outputs, inputs), setting), scales)
        for _ in range(copies_of(outputs * inputs, setting))
    ]


def _fp8(setting: Setting, size: tuple[int, int, int]) -> list[Run]:
    """A scale a token and an output. Activations come as fp8."""
    num_rows, outputs, inputs = size
    device = setting.torch_device
    x = torch.randn((num_rows, inputs), device=device).to(torch.float8_e4m3fn)
    of_rows, of_outputs = torch.rand((num_rows, 1), device=device), torch.rand((1, outputs), device=device)
    product = partial(torch._scaled_mm, scale_a=of_rows, scale_b=of_outputs, out_dtype=torch.bfloat16)
    return [
        partial(product, x, torch.randn((outputs, inputs), device=device).to(torch.float8_e4m3fn).T)
        for _ in range(copies_of(outputs * inputs, setting))
    ]


def _codes(size: tuple[int, int], setting: Setting) -> torch.Tensor:
    return torch.randint(-127, 128, size, dtype=torch.int8, device=setting.torch_device)
