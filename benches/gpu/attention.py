"""Attention over every type of cache, and the writes before it: heads of Llama-3.1-8B, blocks in random order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, get_args

import numpy as np
import torch
from torch.nn.attention.bias import causal_lower_right
from torch.nn.functional import scaled_dot_product_attention

from gpu.program_bench import (
    TOLERANCE,
    Peers,
    bfloat16,
    limits_of,
    measured,
    reference_backend,
    relative_error,
    run_on_device,
    verdict,
)
from gpu.setting import Item, Setting
from gpu.timing import Ceilings, Run, copies_of
from vivace.bench.op_cost import StepShape
from vivace.core.config import KVDtype
from vivace.ops import program as ir
from vivace.ops.backend import KV_ELEMENT_BYTES, KVSpec, StepInputs
from vivace.ops.program import Program

BLOCK = 16
CHECK_SPANS = ((1, 700), (40, 200), (3, 77), (1, 1))
FILLED = 16  # blocks of random numbers; the others are copies of them
ROPE_WRITE: tuple[type[ir.Op], ...] = (ir.Rope, ir.Rope, ir.KVWrite)
CODED_TOLERANCE = 4e-2  # turned keys are rounded to bfloat16 before they are coded: some fall on another level
FIRST = ("bf16", "int8_per_token_head", "int4_per_token_head")


@dataclass(frozen=True, slots=True)
class Heads:
    num_heads: int
    num_kv_heads: int
    head_dim: int

    @property
    def widths(self) -> tuple[int, int, int]:
        """Columns of queries, keys and values."""
        keys = self.num_kv_heads * self.head_dim
        return self.num_heads * self.head_dim, keys, keys


GROUPED, SINGLE, TINY = Heads(32, 8, 128), Heads(32, 32, 128), Heads(4, 2, 64)


@dataclass(frozen=True, slots=True)
class Load:
    """`batch` sequences of `rows` new tokens each, with `context` tokens after them."""

    name: str
    batch: int
    rows: int
    context: int
    heads: Heads = GROUPED


LOADS = (
    Load("decode 1 x 2048", 1, 1, 2048),
    Load("decode 1 x 16384", 1, 1, 16384),
    Load("decode 8 x 4096", 8, 1, 4096),
    Load("decode 64 x 2048", 64, 1, 2048),
    Load("prefill 2048", 1, 2048, 2048),
    Load("prefill 16384", 1, 16384, 16384),
    Load("prefill 512 behind 7680", 1, 512, 8192),
    Load("decode 64 x 1024, 32 KV heads", 64, 1, 1024, SINGLE),
)
TINY_LOADS = (Load("decode 2 x 40", 2, 1, 40, TINY), Load("prefill 20 behind 12", 1, 20, 32, TINY))


def attention_items(setting: Setting, ceilings: Ceilings) -> Iterator[Item]:
    dtypes: list[KVDtype] = sorted(get_args(KVDtype), key=lambda one: FIRST.index(one) if one in FIRST else 9)
    for dtype in dtypes:
        yield Item(f"attention {dtype} right", partial(check_attention, setting, dtype, False), 10.0)
        yield Item(f"attention {dtype} right behind rope", partial(check_attention, setting, dtype, True), 10.0)
        for load in TINY_LOADS if setting.is_tiny else LOADS:
            key = f"attention {dtype} {load.name}"
            yield Item(key, partial(measure_attention, setting, ceilings, dtype, load, (ir.Attention,)), 15.0)
        written = TINY_LOADS[:1] if setting.is_tiny else (LOADS[3], LOADS[4])
        for load in written:
            for name, kinds in (("kv_write", (ir.KVWrite,)), ("rope and kv_write", ROPE_WRITE)):
                key = f"{name} {dtype} {load.batch * load.rows} rows"
                yield Item(key, partial(measure_attention, setting, ceilings, dtype, load, kinds), 10.0)


def check_attention(setting: Setting, dtype: KVDtype, is_turned: bool) -> dict[str, Any]:
    """A ragged batch, written and read, beside the reference in float32: the same keys and values on both, but for
    the rounding of those that are turned by their positions."""
    heads = TINY if setting.is_tiny else GROUPED
    spans = ((1, 50), (18, 30), (1, 1)) if setting.is_tiny else CHECK_SPANS
    rng = np.random.default_rng([setting.seed, *dtype.encode()])
    steps = _steps(spans, heads, rng)
    results = []
    backend = setting.backend()
    num_blocks = sum(-(-context // BLOCK) for _, context in spans)
    for one in (backend, reference_backend()):
        spec = KVSpec(1, heads.num_kv_heads, heads.head_dim, BLOCK, dtype)
        cache = one.kv_cache(spec, num_blocks)
        for step, is_last in steps:
            program = cache_program(one, heads, 1, is_turned=is_turned, attends=is_last)
            results.append(run_on_device(one, program, cache, step))
    half = len(results) // 2
    tolerance = CODED_TOLERANCE if is_turned and dtype not in KV_ELEMENT_BYTES else TOLERANCE
    error = relative_error(results[half - 1], results[-1])
    return verdict(error, tolerance) | {"runs": backend.kernels.explain()}


def measure_attention(
    setting: Setting, ceilings: Ceilings, dtype: KVDtype, load: Load, kinds: tuple[type[ir.Op], ...]
) -> dict[str, Any]:
    """Layers are the sets of data used in turn."""
    heads, rng = load.heads, np.random.default_rng([setting.seed, load.context, *dtype.encode()])
    one_layer = KVSpec(1, heads.num_kv_heads, heads.head_dim, BLOCK, dtype)
    per_sequence = -(-load.context // BLOCK)
    num_blocks = max(FILLED, load.batch * per_sequence)
    count = copies_of(num_blocks * one_layer.bytes_per_block, setting)
    spec = KVSpec(count, heads.num_kv_heads, heads.head_dim, BLOCK, dtype)
    backend = setting.backend()
    cache = backend.kv_cache(spec, num_blocks)
    filling = _span_step([(FILLED * BLOCK, FILLED * BLOCK)], [np.arange(FILLED)], heads, rng)
    filler = cache_program(backend, heads, count, is_turned=False, attends=False)
    run_on_device(backend, filler, cache, filling)
    cache.copy_blocks([(block % FILLED, block) for block in range(FILLED, num_blocks)])
    order = rng.permutation(num_blocks)[: load.batch * per_sequence].reshape(load.batch, per_sequence)
    step = _span_step([(load.rows, load.context)] * load.batch, list(order), heads, rng)
    attends = kinds == (ir.Attention,)
    program = cache_program(backend, heads, count, is_turned=kinds == ROPE_WRITE, attends=attends)
    executable = backend.compile(program, cache, limits_of(step))
    shape = StepShape((load.rows,) * load.batch, (load.context,) * load.batch)
    peers: Peers = {"SDPA bf16": partial(_attend, setting, load)} if attends else {}
    timed = measured(setting, ceilings, executable, program, step, shape, spec, kinds, peers)
    return {"error": None} | timed | {"runs": backend.kernels.explain()}


def cache_program(backend: Any, heads: Heads, num_layers: int, *, is_turned: bool, attends: bool) -> Program:
    """Writes a step's keys and values in every layer, turned by their positions first or as they are, and attends
    there; its output is the last layer's, or the queries."""
    program = Program()
    first, second, third = np.cumsum(heads.widths).tolist()
    x = program.given_states(third)
    queries, keys, values = x.columns(0, first), x.columns(first, second), x.columns(second, third)
    out = queries
    frequencies = (0.9 ** np.arange(heads.head_dim // 2)).astype(np.float32)
    table = program.rope_table(backend.vector("frequencies", frequencies))
    for layer in range(num_layers):
        turned = program.rope(queries, table, heads.head_dim) if is_turned else queries
        written = program.rope(keys, table, heads.head_dim) if is_turned else keys
        program.kv_write(written, values, layer)
        out = turned
        if attends:
            out = program.attention(
                turned,
                layer,
                num_heads=heads.num_heads,
                num_kv_heads=heads.num_kv_heads,
                head_dim=heads.head_dim,
                scale=heads.head_dim**-0.5,
            )
    program.output = program.gather_rows(out)
    return program


def _steps(spans: Sequence[tuple[int, int]], heads: Heads, rng: np.random.Generator) -> list[tuple[StepInputs, bool]]:
    """Everything before the spans' rows, then the rows; whether a step is the last."""
    counts = [-(-context // BLOCK) for _, context in spans]
    tables = np.split(rng.permutation(sum(counts)), np.cumsum(counts)[:-1])
    before = [(context - rows, context - rows) for rows, context in spans if context > rows]
    kept = [table for table, (rows, context) in zip(tables, spans, strict=True) if context > rows]
    return [(_span_step(before, kept, heads, rng), False), (_span_step(list(spans), tables, heads, rng), True)]


def _span_step(
    spans: list[tuple[int, int]], tables: list[np.ndarray], heads: Heads, rng: np.random.Generator
) -> StepInputs:
    """`spans`: rows and context of each sequence, whose blocks are `tables`. Every row is an output: all of them are
    compared."""
    positions = [np.arange(context - rows, context) for rows, context in spans]
    slots = [table[at // BLOCK] * BLOCK + at % BLOCK for table, at in zip(tables, positions, strict=True)]
    tables_BX = np.zeros((len(spans), max(len(table) for table in tables)), np.int32)
    for sequence, table in enumerate(tables):
        tables_BX[sequence, : len(table)] = table
    starts = np.cumsum([0] + [rows for rows, _ in spans]).astype(np.int32)
    size = (int(starts[-1]), sum(heads.widths))
    return StepInputs(
        token_ids_T=np.zeros(starts[-1], np.int32),
        positions_T=np.concatenate(positions).astype(np.int32),
        slots_T=np.concatenate(slots).astype(np.int32),
        query_starts_B1=starts,
        context_lens_B=np.array([context for _, context in spans], np.int32),
        block_tables_BX=tables_BX,
        sampled_rows_S=np.arange(starts[-1], dtype=np.int32),
        states_TD=bfloat16(rng.standard_normal(size, dtype=np.float32)),
    )


def _attend(setting: Setting, load: Load) -> list[Run]:
    """torch over contiguous keys and values: no pages to follow."""
    heads, device = load.heads, setting.torch_device

    def random(num_heads: int, length: int) -> torch.Tensor:
        size = (load.batch, num_heads, length, heads.head_dim)
        return torch.randn(size, dtype=torch.bfloat16, device=device)

    query = random(heads.num_heads, load.rows)
    options: dict[str, Any] = {"enable_gqa": heads.num_heads != heads.num_kv_heads}
    if load.rows == load.context:
        options["is_causal"] = True
    elif load.rows > 1:
        options["attn_mask"] = causal_lower_right(load.rows, load.context)
    num_bytes = 4 * load.batch * load.context * heads.num_kv_heads * heads.head_dim
    return [
        partial(
            scaled_dot_product_attention,
            query,
            random(heads.num_kv_heads, load.context),
            random(heads.num_kv_heads, load.context),
            **options,
        )
        for _ in range(copies_of(num_bytes, setting))
    ]
