"""Operations on rows: norms, rope, gated activations, sums; widths of Llama-3.1-8B."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
from torch.nn.functional import rms_norm, silu

from gpu.program_bench import (
    NO_CACHE,
    TOLERANCE,
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
from vivace.models.dummy import DummyTensors
from vivace.ops import program as ir
from vivace.ops.program import Program, Value

WIDTH, FEED_FORWARD, HEAD_DIM = 4_096, 14_336, 128
TINY_WIDTH = 256
NUM_OUTPUTS = 256
REPETITIONS = 8
ROWS = (64, 2048)
Record = Callable[[Program, Any, Value], Value]


def row_items(setting: Setting, ceilings: Ceilings) -> Iterator[Item]:
    for name in OPERATIONS:
        for num_rows in (3,) if setting.is_tiny else ROWS:
            yield Item(f"{name} {num_rows} rows", partial(measure_rows, setting, ceilings, name, num_rows), 8.0)


def measure_rows(setting: Setting, ceilings: Ceilings, name: str, num_rows: int) -> dict[str, Any]:
    kinds, record, full_width = OPERATIONS[name]
    width = TINY_WIDTH if setting.is_tiny else full_width
    rng = np.random.default_rng([setting.seed, num_rows, *name.encode()])
    step = row_step(bfloat16(rng.standard_normal((num_rows, width), dtype=np.float32)))
    backend, reference = setting.backend(), reference_backend()
    program, cache = _program(backend, record, width, REPETITIONS), backend.kv_cache(NO_CACHE, 1)
    result = run_on_device(backend, program, cache, step)
    expected = run_on_device(reference, _program(reference, record, width, 1), reference.kv_cache(NO_CACHE, 1), step)
    executable = backend.compile(program, cache, limits_of(step))
    shape = StepShape((num_rows,), (num_rows,))
    peers: Peers = {"torch": partial(_peer, setting, name, num_rows, width)}
    timed = measured(setting, ceilings, executable, program, step, shape, NO_CACHE, kinds, peers)
    return (
        verdict(relative_error(result, expected), TOLERANCES.get(name, TOLERANCE))
        | timed
        | {"runs": backend.kernels.explain()}
    )


def _program(backend: Any, record: Record, width: int, count: int) -> Program:
    """The same operation on the same rows: what was read before may be in the second-level cache, as in a step."""
    program = Program()
    x = program.given_states(width)
    for _ in range(count):
        out = record(program, backend, x)
    program.output = program.gather_rows(out)
    return program


def _norm(program: Program, backend: Any, x: Value) -> Value:
    return program.rms_norm(x, backend.vector("norm", np.linspace(0.5, 1.5, x.width, dtype=np.float32)), 1e-5)


def _rope(program: Program, backend: Any, x: Value) -> Value:
    frequencies = (0.9 ** np.arange(HEAD_DIM // 2)).astype(np.float32)
    return program.rope(x, program.rope_table(backend.vector("frequencies", frequencies)), HEAD_DIM)


def _gate(program: Program, backend: Any, x: Value) -> Value:  # noqa: ARG001 -- needs no weight
    return program.gated_activation(x, "silu")


def _add(program: Program, backend: Any, x: Value) -> Value:  # noqa: ARG001 -- needs no weight
    return program.add(x, x)


def _add_norm(program: Program, backend: Any, x: Value) -> Value:
    return _norm(program, backend, program.add(x, x))


def _coded_norm(encoding: str, program: Program, backend: Any, x: Value) -> Value:
    """A few outputs of the product that reads it; its time is not counted."""
    stored = DummyTensors(encoding, 1).matrix("m", (NUM_OUTPUTS, x.width))
    return program.linear(_add_norm(program, backend, x), [backend.pack("m", stored)])


OPERATIONS: dict[str, tuple[tuple[type[ir.Op], ...], Record, int]] = {
    "rms_norm": ((ir.RmsNorm,), _norm, WIDTH),
    "rope": ((ir.Rope,), _rope, WIDTH),
    "silu and up": ((ir.GatedActivation,), _gate, 2 * FEED_FORWARD),
    "add": ((ir.Add,), _add, WIDTH),
    "add and rms_norm": ((ir.Add, ir.RmsNorm), _add_norm, WIDTH),
    "add and rms_norm to int8": ((ir.Add, ir.RmsNorm), partial(_coded_norm, "int8_channel"), WIDTH),
    "add and rms_norm to fp8": ((ir.Add, ir.RmsNorm), partial(_coded_norm, "fp8_channel"), WIDTH),
}
# The reference does not round the norm to bfloat16 first: one number in sixteen becomes another one of e4m3's, which
# lie up to an eighth apart.
TOLERANCES = {"add and rms_norm to fp8": 3e-2}


def _peer(setting: Setting, name: str, num_rows: int, width: int) -> list[Run]:
    device = setting.torch_device

    def one() -> Run:
        x = torch.randn((num_rows, width), dtype=torch.bfloat16, device=device)
        if name.startswith("add and rms_norm"):  # torch's own has no codes: they are two launches more
            weight = torch.rand(width, dtype=torch.bfloat16, device=device)
            return lambda: rms_norm(x + x, (width,), weight)
        if name == "rms_norm":
            return partial(rms_norm, x, (width,), torch.rand(width, dtype=torch.bfloat16, device=device))
        if name == "silu and up":
            return lambda: silu(x[:, : width // 2]) * x[:, width // 2 :]
        if name == "rope":
            cos, sin = (torch.rand((num_rows, 1, HEAD_DIM), dtype=torch.bfloat16, device=device) for _ in range(2))
            return partial(_turned, x.view(num_rows, -1, HEAD_DIM), cos, sin)
        return partial(torch.add, x, x)

    return [one() for _ in range(min(REPETITIONS, copies_of(2 * num_rows * width, setting)))]


def _turned(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """As transformers writes it."""
    half = x.shape[-1] // 2
    return x * cos + torch.cat((-x[..., half:], x[..., :half]), dim=-1) * sin
