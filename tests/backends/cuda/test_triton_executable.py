"""Whole steps of a tiny Llama by the kernels, in Triton's interpreter or on a device, against the reference backend.

Nothing but what no kernel does is left to torch: embeddings, dense products, sums of residuals, gathered rows.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from recorded_driver import RecordedDriver
from triton_interpreter import CONVERTS_FP8, HAS_DEVICE

from vivace.backends.cuda import executable as executable_module
from vivace.backends.cuda.backend import CudaBackend
from vivace.backends.cuda.fusion import Stage, stages
from vivace.backends.cuda.graph_buckets import Bucket, GraphOptions
from vivace.backends.cuda.kernels import trial
from vivace.backends.cuda.kernels.ragged_rows import LEAST_GRAPH_PARTS
from vivace.backends.cuda.token_codes import TOKEN_ENCODINGS
from vivace.backends.reference.backend import ReferenceBackend
from vivace.formats.fp8_rows import quantize_fp8
from vivace.formats.quantize_rtn import encode, quantize_matrix
from vivace.formats.stored_matrix import stored_matrix as stored_levels
from vivace.formats.tensor import StoredTensor
from vivace.ops.backend import KVSpec, StepInputs, StepLimits
from vivace.ops.program import Program, Value, Weight

HEADS, KV_HEADS, HEAD_DIM, WIDTH, HIDDEN, VOCABULARY = 4, 2, 32, 64, 96, 50
LAYERS, BLOCK_SIZE, NUM_BLOCKS = 2, 16, 8
TABLES = np.array([[5, 2, 7], [3, 0, 1]], np.int32)  # of two sequences
LONG, SHORT = (17, 3), (4, 3)  # prompts: the first of LONG runs in tiles over its whole context, others have it split
LIMITS = StepLimits(64, 64)

# Logits are of the size of 1. Values between operations are float32 with float32 weights, where only a cached number
# that falls on the other side of a rounding shows; bfloat16, of 8 bits, with others.
TOLERANCE = {"f32": 5e-3, "q4_0": 6e-2}


def interpreted() -> CudaBackend:
    return CudaBackend("cuda") if HAS_DEVICE else CudaBackend("cpu", interpreted=True)


class TinyLlama:
    """The same random weights on any backend."""

    def __init__(self, backend: Any, encoding: str) -> None:
        self._backend = backend
        self._encoding = encoding
        self._rng = np.random.default_rng(47)

    def program(self) -> Program:
        program = Program()
        x = program.embedding(self._matrix(VOCABULARY, WIDTH, 8.0))
        frequencies = 0.5 ** np.arange(HEAD_DIM // 2, dtype=np.float32)
        table = program.rope_table(self._backend.vector("frequencies", frequencies))
        for layer in range(LAYERS):
            x = self._attend(program, x, table, layer)
            normed = program.rms_norm(x, self._norm(), 1e-5)
            gated = program.gated_activation(program.linear(normed, [self._matrix(2 * HIDDEN, WIDTH)]), "silu")
            x = program.add(x, program.linear(gated, [self._matrix(WIDTH, HIDDEN)]))
        last = program.rms_norm(program.gather_rows(x), self._norm(), 1e-5)
        program.output = program.linear(last, [self._matrix(VOCABULARY, WIDTH)])
        return program

    def _attend(self, program: Program, x: Value, table: Value, layer: int) -> Value:
        sizes = [heads * HEAD_DIM for heads in (HEADS, KV_HEADS, KV_HEADS)]
        first, second, third = np.cumsum(sizes).tolist()
        normed = program.rms_norm(x, self._norm(), 1e-5)
        qkv = program.linear(normed, [self._matrix(size, WIDTH) for size in sizes])
        q = program.rope(qkv.columns(0, first), table, HEAD_DIM)
        k = program.rope(qkv.columns(first, second), table, HEAD_DIM)
        program.kv_write(k, qkv.columns(second, third), layer)
        heads = program.attention(
            q, layer, num_heads=HEADS, num_kv_heads=KV_HEADS, head_dim=HEAD_DIM, scale=HEAD_DIM**-0.5
        )
        return program.add(x, program.linear(heads, [self._matrix(WIDTH, HEADS * HEAD_DIM)]))

    def _matrix(self, num_rows: int, num_columns: int, factor: float = 1.0) -> Weight:
        values = self._rng.standard_normal((num_rows, num_columns), dtype=np.float32)
        stored = stored_matrix(values * np.float32(factor * num_columns**-0.5), self._encoding)
        weight: Weight = self._backend.pack("matrix", stored)
        return weight

    def _norm(self) -> Weight:
        weight: Weight = self._backend.vector("norm", self._rng.uniform(0.5, 1.5, WIDTH).astype(np.float32))
        return weight


def stored_matrix(values: np.ndarray, encoding: str) -> StoredTensor:
    if encoding == "fp8_channel":
        return quantize_fp8("matrix", values)
    if encoding in TOKEN_ENCODINGS:
        return stored_levels(
            "matrix", quantize_matrix(values, 8, -1), "token" if encoding == "int8_channel" else "outlier"
        )
    return encode(values, encoding, "matrix")


def step(counts: tuple[int, ...], contexts: tuple[int, ...], seed: int) -> StepInputs:
    """`counts` rows of the two sequences, whose contexts then have `contexts` tokens; every row is sampled."""
    rng = np.random.default_rng(seed)
    positions = [np.arange(context - count, context) for count, context in zip(counts, contexts, strict=True)]
    slots = [TABLES[b, at // BLOCK_SIZE] * BLOCK_SIZE + at % BLOCK_SIZE for b, at in enumerate(positions)]
    return StepInputs(
        token_ids_T=rng.integers(0, VOCABULARY, sum(counts)).astype(np.int32),
        positions_T=np.concatenate(positions).astype(np.int32),
        slots_T=np.concatenate(slots).astype(np.int32),
        query_starts_B1=np.cumsum([0, *counts]).astype(np.int32),
        context_lens_B=np.array(contexts, np.int32),
        block_tables_BX=TABLES,
        sampled_rows_S=np.arange(sum(counts), dtype=np.int32),
    )


def steps(prompts: tuple[int, int]) -> list[StepInputs]:
    """A prefill and two steps of decoding."""
    decoding = [step((1, 1), (prompts[0] + done, prompts[1] + done), 1 + done) for done in (1, 2)]
    return [step(prompts, prompts, 1), *decoding]


def compiled(backend: Any, encoding: str, kv_dtype: str, limits: StepLimits = LIMITS) -> Any:
    spec = KVSpec(LAYERS, KV_HEADS, HEAD_DIM, BLOCK_SIZE, kv_dtype)  # type: ignore[arg-type]
    return backend.compile(TinyLlama(backend, encoding).program(), backend.kv_cache(spec, NUM_BLOCKS), limits)


def logits(backend: Any, executable: Any, inputs: StepInputs) -> np.ndarray:
    return np.array(backend.on_host(executable.run(inputs)))


CASES = [("f32", "bf16", LONG), ("q4_0", "int8_per_token_head", SHORT), ("q4_0", "bf16", SHORT)]


@pytest.mark.parametrize(("encoding", "kv_dtype", "prompts"), CASES)
def test_logits_are_those_of_the_reference(encoding: str, kv_dtype: str, prompts: tuple[int, int]) -> None:
    backend, reference = interpreted(), ReferenceBackend(np.float64)
    executable, expected = compiled(backend, encoding, kv_dtype), compiled(reference, encoding, kv_dtype)
    for inputs in steps(prompts):
        wanted = logits(reference, expected, inputs)
        assert wanted.std() > 0.5
        np.testing.assert_allclose(logits(backend, executable, inputs), wanted, rtol=0, atol=TOLERANCE[encoding])
    by_kernel = {line.partition(":")[0] for line in backend.kernels.explain() if ": triton" in line}
    coded = {"linear"} if encoding == "q4_0" else set()
    assert by_kernel == {"attention", "rope_kv_write", "rms_norm", "add_rms_norm", "gated_activation"} | coded


def apart(program: Program) -> list[Stage]:
    """Each operation by itself."""
    found = stages(program)
    return [Stage((op,), (dying,)) for stage in found for op, dying in zip(stage.ops, stage.dying, strict=True)]


@pytest.mark.parametrize("encoding", TOKEN_ENCODINGS)
@pytest.mark.parametrize("by_kernel", [True, False])
def test_codes_are_those_of_what_would_be_stored(
    encoding: str, by_kernel: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step whose products round its rows to 8 bits, with and without kernels of several operations: equal bits."""
    if encoding == "fp8_channel" and not CONVERTS_FP8:
        pytest.skip("the target knows no 8-bit floats")
    backend = interpreted() if by_kernel else CudaBackend("cpu")
    together, reference = compiled(backend, encoding, "bf16"), ReferenceBackend(np.float64)
    expected = compiled(reference, encoding, "bf16")
    monkeypatch.setattr(executable_module, "stages", apart)
    separate = compiled(backend, encoding, "bf16")
    for inputs in steps(SHORT)[:2]:
        result, wanted = logits(backend, together, inputs), logits(reference, expected, inputs)
        np.testing.assert_array_equal(result, logits(backend, separate, inputs))
        assert np.linalg.norm(result - wanted) < 0.15 * np.linalg.norm(wanted)  # another level here and there
    said = backend.kernels.explain()
    for name in ("coded_rms_norm", "coded_gated_activation"):
        assert any(line.startswith(f"{name}: triton") for line in said) == by_kernel


@pytest.mark.parametrize("encoding", TOKEN_ENCODINGS)
def test_rows_of_codes_do_not_depend_on_each_other(encoding: str) -> None:
    """Two prompts in a step, and each in its own, to the bit."""
    if encoding == "fp8_channel" and not CONVERTS_FP8:
        pytest.skip("the target knows no 8-bit floats")
    backend = interpreted()
    together, alone = (compiled(backend, encoding, "bf16") for _ in range(2))
    both = step(SHORT, SHORT, 1)
    expected = logits(backend, together, both)
    for sequence, rows in enumerate(np.split(np.arange(sum(SHORT)), [SHORT[0]])):
        one = replace(
            both,
            token_ids_T=both.token_ids_T[rows],
            positions_T=both.positions_T[rows],
            slots_T=both.slots_T[rows],
            query_starts_B1=np.array([0, len(rows)], np.int32),
            context_lens_B=both.context_lens_B[[sequence]],
            block_tables_BX=both.block_tables_BX[[sequence]],
            sampled_rows_S=np.arange(len(rows), dtype=np.int32),
        )
        np.testing.assert_array_equal(logits(backend, alone, one), expected[rows])


def test_keys_by_channel() -> None:
    """A prompt that fills a block, chunks of few rows across a block's end and through its middle, then decoding."""
    backend, reference = interpreted(), ReferenceBackend(np.float64)
    executable, expected = (compiled(one, "f32", "int4_k_per_channel") for one in (backend, reference))
    chunks = [
        step((20, 3), (20, 3), 1),
        step((5, 1), (25, 4), 2),
        step((9, 14), (34, 18), 3),
        step((1, 1), (35, 19), 4),
    ]
    for inputs in chunks:
        wanted = logits(reference, expected, inputs)
        np.testing.assert_allclose(logits(backend, executable, inputs), wanted, rtol=0, atol=TOLERANCE["f32"])
    assert f"attention: triton, {len(chunks) * LAYERS} times" in backend.kernels.explain()


def test_a_graph_computes_the_same() -> None:
    """Captured over the spare block, replayed over other contexts and fewer rows than it has."""
    backend = (
        CudaBackend("cuda", graphs=GraphOptions(sizes=(3,)))
        if HAS_DEVICE
        else CudaBackend("cpu", interpreted=True, graphs=GraphOptions(sizes=(3,)))
    )
    plain = compiled(backend, "f32", "bf16")
    backend.driver = backend.driver or RecordedDriver()
    graphed = compiled(backend, "f32", "bf16", replace(LIMITS, max_sequences=3, max_context=48))
    assert graphed.graphs.buckets == [Bucket(3, "parts", LEAST_GRAPH_PARTS)]
    backend.prepare(graphed)
    alone = replace(
        step((1, 1), (SHORT[0] + 3, 1), 7), token_ids_T=np.array([3], np.int32), positions_T=np.array([6], np.int32),
        slots_T=TABLES[:1, 0] * np.int32(BLOCK_SIZE) + np.int32(6), query_starts_B1=np.array([0, 1], np.int32),
        context_lens_B=np.array([7], np.int32), block_tables_BX=TABLES[:1], sampled_rows_S=np.zeros(1, np.int32),
    )  # fmt: skip
    for inputs in (*steps(SHORT), alone):
        # Dense products, torch's, may choose their order of sums by the number of rows.
        expected = logits(backend, plain, inputs)
        np.testing.assert_allclose(logits(backend, graphed, inputs), expected, rtol=0, atol=1e-5)
    assert graphed.graphs.num_captured == 1
    if isinstance(backend.driver, RecordedDriver):
        assert backend.driver.num_replays == 3


def test_a_tree_of_guesses() -> None:
    """The second row follows the first one, from a slot that is not its position's."""
    backend, reference = interpreted(), ReferenceBackend(np.float64)
    executable, expected = compiled(backend, "f32", "bf16"), compiled(reference, "f32", "bf16")
    tree = step((1, 1), (5, 6), 5)
    tree.block_tables_BX = TABLES[[0, 0]]
    tree.slots_T = TABLES[0, 0] * BLOCK_SIZE + np.array([4, 9], np.int32)
    tree.parents_T = np.array([-1, 0], np.int32)
    for inputs in (steps(SHORT)[0], tree):
        wanted = logits(reference, expected, inputs)
        np.testing.assert_allclose(logits(backend, executable, inputs), wanted, rtol=0, atol=TOLERANCE["f32"])
    assert any(line == f"attention: triton, {2 * LAYERS} times" for line in backend.kernels.explain())


def test_a_prompt_by_torch() -> None:
    """The first prompt of LONG is longer than what is split, and without cached context; the rest is the kernel's."""
    backend = CudaBackend("cuda") if HAS_DEVICE else CudaBackend("cpu", interpreted=True, attention="sdpa")
    executable, reference = compiled(backend, "f32", "f32"), ReferenceBackend(np.float64)
    expected = compiled(reference, "f32", "f32")
    assert HAS_DEVICE or backend.kernels.remarks == {"attention of prompts": ("sdpa", "as asked")}
    for inputs in steps(LONG):
        wanted = logits(reference, expected, inputs)
        np.testing.assert_allclose(logits(backend, executable, inputs), wanted, rtol=0, atol=TOLERANCE["f32"])


def test_a_kernel_that_does_not_run_leaves_all_to_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_compiler(*_: object) -> None:
        raise RuntimeError("Failed to find C compiler. Please specify via CC environment variable.\nMore.")

    monkeypatch.setattr(trial, "rms_norm", no_compiler)
    backend = interpreted()
    executable = compiled(backend, "f32", "bf16")
    assert executable._launchers is None
    assert np.isfinite(logits(backend, executable, steps(SHORT)[0])).all()
    expected = "triton does not run a kernel: Failed to find C compiler. Please specify via CC environment variable."
    assert backend.kernels.complaint == expected


def test_off_a_device_torch_runs_alone() -> None:
    backend = CudaBackend("cpu")
    assert compiled(backend, "f32", "bf16")._launchers is None
    assert backend.kernels.complaint is not None
