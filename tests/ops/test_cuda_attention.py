"""The torch backend's attention and caches on torch's CPU device, against the float64 reference. No GPU is needed."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest
import torch
from paged_steps import AttentionShape, PagedAttention
from test_cpu_attention import CODED_SHAPES, LENGTHS, SHAPES
from test_tree_attention import SHAPES as TREE_SHAPES
from test_tree_attention import cases

from vivace.backends.cuda import spans
from vivace.backends.cuda.backend import CudaBackend
from vivace.backends.reference.backend import ReferenceBackend
from vivace.core.config import KVDtype


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.mark.parametrize("shape", SHAPES + CODED_SHAPES, ids=str)
def test_agrees_with_the_reference(shape: AttentionShape) -> None:
    expected = PagedAttention(ReferenceBackend(np.float64), shape, LENGTHS, seed=1).run_whole()
    actual = PagedAttention(CudaBackend("cpu"), shape, LENGTHS, seed=1).run_whole()
    for one, other in zip(actual, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("shape", SHAPES + CODED_SHAPES, ids=str)
def test_any_split_into_steps_gives_the_same(shape: AttentionShape, monkeypatch: pytest.MonkeyPatch) -> None:
    """Groups are cut small here, so that every kind of group is met."""
    monkeypatch.setattr(spans, "GATHERED_POSITIONS", 150)
    monkeypatch.setattr(spans, "SCORED_POSITIONS", 900)
    seed, lengths = 3, [110, 90, 140]
    print(f"{seed=}")
    rng = np.random.default_rng(seed)
    expected = PagedAttention(CudaBackend("cpu"), shape, lengths, seed).run_whole()
    attention = PagedAttention(CudaBackend("cpu"), shape, lengths, seed)
    done = [0] * len(lengths)
    while any(start < length for start, length in zip(done, lengths, strict=True)):
        sizes = [
            min(int(rng.choice([0, 1, 1, 7, 40])), length - at) for length, at in zip(lengths, done, strict=True)
        ]
        steps = [(index, done[index], done[index] + size) for index, size in enumerate(sizes) if size]
        for (index, start, stop), out in zip(steps, attention.run(steps) if steps else [], strict=True):
            np.testing.assert_allclose(out, expected[index][start:stop], rtol=1e-6, atol=1e-7)
            done[index] = stop


@pytest.mark.parametrize("shape", TREE_SHAPES, ids=str)
def test_trees_agree_with_the_reference(shape: AttentionShape) -> None:
    for step in cases(shape, 2):
        expected = step.run_tree(ReferenceBackend(np.float64))
        np.testing.assert_allclose(step.run_tree(CudaBackend("cpu")), expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("dtype", get_args(KVDtype))
def test_rejected_tokens_leave_no_trace(dtype: KVDtype) -> None:
    shape = AttentionShape(4, 2, 64, dtype=dtype)
    expected = PagedAttention(CudaBackend("cpu"), shape, [120, 120], seed=6).run_whole()[0]
    attention = PagedAttention(CudaBackend("cpu"), shape, [120, 120], seed=6)
    at = 0
    for draft, accepted in ((40, 21), (30, 11), (1, 1), (18, 0), (33, 14), (60, 1)):
        first = attention.first_ids[0]
        if accepted:
            out = attention.run([(0, at, at + accepted)])[0]
            np.testing.assert_allclose(out, expected[at : at + accepted], rtol=1e-6, atol=1e-7)
        at += accepted
        attention.first_ids[0] = attention.first_ids[1]
        attention.run([(0, at, min(at + draft, 120))])
        attention.first_ids[0] = first
    np.testing.assert_allclose(attention.run([(0, at, 120)])[0], expected[at:], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("dtype", get_args(KVDtype))
def test_stale_cache_contents_are_not_read(dtype: KVDtype) -> None:
    """A NaN that a broken request left in a block must not reach the block's next owner."""
    shape = AttentionShape(2, 1, 64, dtype=dtype)
    attention = PagedAttention(CudaBackend("cpu"), shape, [32, 20], seed=5, broken=0)
    expected = attention.run([(1, 0, 20)])[0]
    assert np.isfinite(expected).all()
    assert np.isnan(attention.run([(0, 0, 32)])[0]).all()
    attention.tables[1] = attention.tables[0]
    np.testing.assert_array_equal(attention.run([(1, 0, 18)])[0], expected[:18])
    np.testing.assert_array_equal(attention.run([(1, 18, 20)])[0], expected[18:])
