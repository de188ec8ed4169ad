"""Trees of guesses over a paged cache: against dense attention with a mask, and bit by bit against plain decoding."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import pytest
from paged_steps import Array, AttentionShape, stored

from vivace.backends.cpu.backend import KV_DTYPES, CpuBackend
from vivace.backends.reference.backend import ReferenceBackend
from vivace.core.errors import EngineError
from vivace.ops.backend import StepInputs, StepLimits
from vivace.ops.program import Program

SHAPES = [
    AttentionShape(4, 4, 8),
    AttentionShape(3, 1, 64, dtype="bf16"),
    AttentionShape(8, 2, 64, block_size=4, window=7),
    AttentionShape(4, 2, 80, block_size=32, dtype="f16", softcap=20.0),
    AttentionShape(2, 2, 128, block_size=5, dtype="f16"),
    AttentionShape(2, 1, 64, block_size=1, dtype="bf16"),
    AttentionShape(8, 2, 64, dtype="int8_per_token_head"),
    AttentionShape(2, 1, 100, block_size=48, dtype="int8_per_token_head", window=70),
    AttentionShape(4, 2, 80, dtype="int4_per_token_head"),
    AttentionShape(8, 2, 64, dtype="int4_k_per_channel"),
    AttentionShape(4, 2, 80, block_size=32, dtype="int4_k_per_channel", window=21),
]
CONTEXTS = [1, 14, 15, 16, 37, 511, 530]  # tokens before the root: guesses cross blocks and chunks
NUM_GUESSES = 11


@dataclass
class Tree:
    """Guesses behind the last token (the root) of a context. `parents[i]`: the guess that guess i follows, or -1."""

    parents: list[int]

    @property
    def num_chain(self) -> int:
        return next((i for i, parent in enumerate(self.parents) if parent != i - 1), len(self.parents))

    def path(self, guess: int) -> list[int]:
        path = []
        while guess >= 0:
            path.append(guess)
            guess = self.parents[guess]
        return path[::-1]


def random_tree(rng: np.random.Generator) -> Tree:
    """A chain of any length, then guesses that follow any before them."""
    chain = int(rng.integers(0, 4))
    parents = list(range(-1, chain - 1))
    return Tree([*parents, *(int(rng.integers(-1, i)) for i in range(chain, NUM_GUESSES))])


class Step:
    """Random queries, keys and values of a context, the root and the guesses; row i is token id i."""

    def __init__(self, shape: AttentionShape, num_context: int, tree: Tree, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.shape, self.num_context, self.tree = shape, num_context, tree
        self.num_rows = num_context + 1 + len(tree.parents)
        width = (shape.num_heads + 2 * shape.num_kv_heads) * shape.head_dim
        self.rows = rng.standard_normal((self.num_rows, width)).astype(np.float32)
        self.num_blocks = -(-self.num_rows // shape.block_size)
        self.table = rng.permutation(self.num_blocks).astype(np.int32)

    def open(self, backend: Any) -> Callable[[StepInputs], Array]:
        program = Program()
        program.output = self.shape.record(program, backend.pack("qkv", stored(self.rows)))
        self.cache = backend.kv_cache(self.shape.spec, self.num_blocks)
        executable = backend.compile(program, self.cache, StepLimits(self.num_rows, 1))
        return lambda inputs: np.asarray(executable.run(inputs)).copy()

    def slots(self, places: Any) -> Array:
        size = self.shape.block_size
        return self.table[np.asarray(places) // size] * size + np.asarray(places) % size

    def line(self, ids: list[int], start: int) -> StepInputs:
        """Plain tokens at positions from `start` on."""
        positions = np.arange(start, start + len(ids))
        return self._inputs(ids, positions, positions, [0, len(ids)], [start + len(ids)], None)

    def guesses(self) -> StepInputs:
        """The root and all guesses."""
        root, chain, parents = self.num_context, self.tree.num_chain, self.tree.parents
        rows = list(range(root, self.num_rows))
        depths = [0, *(len(self.tree.path(guess)) for guess in range(len(parents)))]
        positions = root + np.array(depths)
        starts = [0, *range(chain + 1, len(rows) + 1)]
        contexts = [root + chain + 1, *(positions[chain + 1 :] + 1)]
        above = [-1] * (chain + 1) + [parent + 1 for parent in parents[chain:]]
        return self._inputs(rows, positions, np.array(rows), starts, contexts, above)

    def _inputs(
        self, ids: list[int], positions: Any, places: Any, starts: list[int], contexts: Any, parents: list[int] | None
    ) -> StepInputs:
        return StepInputs(
            token_ids_T=np.array(ids, np.int32),
            positions_T=np.array(positions, np.int32),
            slots_T=self.slots(places).astype(np.int32),
            query_starts_B1=np.array(starts, np.int32),
            context_lens_B=np.array(contexts, np.int32),
            block_tables_BX=np.ascontiguousarray(np.broadcast_to(self.table, (len(contexts), self.num_blocks))),
            sampled_rows_S=np.zeros(0, np.int32),
            parents_T=None if parents is None else np.array(parents, np.int32),
        )

    def run_tree(self, backend: Any) -> Array:
        run = self.open(backend)
        run(self.line(list(range(self.num_context)), 0))
        return run(self.guesses())

    def decode(self, backend: Any, guess: int) -> Array:
        """The last row of the context, the root and a path as a text of their own."""
        ids = [*range(self.num_context + 1), *(self.num_context + 1 + one for one in self.tree.path(guess))]
        run = self.open(backend)
        run(self.line(ids[: self.num_context], 0))
        return run(self.line(ids[self.num_context :], self.num_context))[-1]


def dense(step: Step) -> Array:
    """Attention of root and guesses over all rows at once, with a mask of who sees whom, in float64."""
    shape, first = step.shape, step.num_context
    heads, groups, dim = shape.num_heads, shape.num_kv_heads, shape.head_dim
    rows = step.rows.astype(np.float64)
    q = rows[first:, : heads * dim].reshape(-1, heads, dim)
    k = rows[:, heads * dim : (heads + groups) * dim].reshape(-1, groups, dim)
    v = rows[:, (heads + groups) * dim :].reshape(-1, groups, dim)
    k, v = np.repeat(k, heads // groups, 1), np.repeat(v, heads // groups, 1)
    mask = np.zeros((len(q), len(k)), bool)
    mask[:, : first + 1] = True
    position = np.arange(step.num_rows)
    for guess in range(len(step.tree.parents)):
        path = step.tree.path(guess)
        mask[1 + guess, [first + 1 + one for one in path]] = True
        position[first + 1 + guess] = first + len(path)
    if shape.window is not None:
        mask &= position[first:, None] - position[None, :] < shape.window
    scores = np.einsum("thd,chd->htc", q, k) * dim**-0.5
    if shape.softcap is not None:
        scores = shape.softcap * np.tanh(scores / shape.softcap)
    weights = np.exp(scores - scores.max(-1, keepdims=True)) * mask
    return np.einsum("htc,chd->thd", weights / weights.sum(-1, keepdims=True), v).reshape(len(q), -1)


def cases(shape: AttentionShape, seed: int) -> list[Step]:
    print(f"{shape} {seed=}")
    rng = np.random.default_rng(seed)
    return [Step(shape, context, random_tree(rng), seed) for context in CONTEXTS]


@pytest.mark.parametrize("shape", [shape for shape in SHAPES if shape.dtype in ("f32", "f16", "bf16")], ids=str)
def test_agrees_with_dense_attention(cpu: CpuBackend, shape: AttentionShape) -> None:
    """The cache rounds keys and values: 2^-8 in bf16, with products of bf16 the rest too."""
    tolerance = {"f32": 3e-6, "f16": 3e-3, "bf16": 3e-2}[shape.dtype]
    for step in cases(shape, 1):
        np.testing.assert_allclose(step.run_tree(cpu), dense(step), rtol=0, atol=tolerance)


@cache  # one for all instruction sets and numbers of threads
def reference(shape: AttentionShape) -> list[Array]:
    """Which is dense attention in float64 where the cache does not round."""
    expected = []
    for step in cases(shape, 2):
        expected.append(step.run_tree(ReferenceBackend(np.float64)))
        if shape.dtype == "f32":
            np.testing.assert_allclose(expected[-1], dense(step), rtol=0, atol=2e-7)
    return expected


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_agrees_with_the_reference(cpu: CpuBackend, shape: AttentionShape) -> None:
    for step, expected in zip(cases(shape, 2), reference(shape), strict=True):
        np.testing.assert_allclose(step.run_tree(cpu), expected, rtol=0, atol=1e-2)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_bits_are_those_of_plain_decoding(isa: str, shape: AttentionShape) -> None:
    one, two = CpuBackend(1, isa), CpuBackend(2, isa)
    for step in cases(shape, 3)[-4:]:
        actual = step.run_tree(two)
        for guess in range(len(step.tree.parents)):
            expected = step.decode(one, guess)
            np.testing.assert_array_equal(actual[1 + guess], expected, err_msg=f"{step.num_context} {step.tree}")


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_an_accepted_path_moves_to_its_place(cpu: CpuBackend, shape: AttentionShape) -> None:
    """Behind it, the text goes on with the bits that it would have had; rejected guesses leave no trace."""
    for step in cases(shape, 4):
        deepest = max(range(len(step.tree.parents)), key=lambda guess, step=step: len(step.tree.path(guess)))
        path, first = step.tree.path(deepest), step.num_context + 1
        behind = list(range(min(20, step.num_rows - first - len(path))))  # any tokens
        run = step.open(cpu)
        run(step.line(list(range(step.num_context)), 0))
        run(step.guesses())
        moves = [(first + guess, first + place) for place, guess in enumerate(path) if guess != place]
        step.cache.move_tokens([tuple(map(int, step.slots(pair))) for pair in moves])
        actual = run(step.line(behind, first + len(path)))
        run = step.open(cpu)
        run(step.line(list(range(first)), 0))
        run(step.line([first + guess for guess in path], first))
        np.testing.assert_array_equal(actual, run(step.line(behind, first + len(path))))


def test_shared_contexts_give_the_same_bits(isa: str) -> None:
    """Few rows over a long context: its chunks are shared among threads."""
    for dtype in KV_DTYPES:
        step = Step(AttentionShape(4, 1, 64, dtype=dtype), 1022, random_tree(np.random.default_rng(5)), 5)
        np.testing.assert_array_equal(step.run_tree(CpuBackend(3, isa)), step.run_tree(CpuBackend(1, isa)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"parents_T": np.array([-1, 5, 0], np.int32)}, "follows it"),
        ({"parents_T": np.array([-1, -1, 1], np.int32)}, "one position behind"),
        ({"parents_T": np.array([-1], np.int32)}, "an entry for each token"),
    ],
)
def test_a_broken_tree_is_refused(change: dict[str, Any], message: str) -> None:
    step = Step(AttentionShape(2, 1, 8), 3, Tree([-1, -1]), 6)
    run = step.open(CpuBackend(1))
    inputs = step.guesses()
    for name, value in change.items():
        setattr(inputs, name, value)
    with pytest.raises(EngineError, match=message):
        run(inputs)
