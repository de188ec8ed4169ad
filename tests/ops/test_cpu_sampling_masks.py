"""Masked rows of the native sampler on every instruction set: as if the logits were -inf where a bit is missing."""

from __future__ import annotations

import numpy as np
import pytest
from test_cpu_sampling import inputs, random_logits

from vivace.backends.cpu.backend import CpuBackend
from vivace.core.errors import EngineError
from vivace.ops.backend import SampleInputs, UInt32Array


def packed(allowed_RV: np.ndarray) -> UInt32Array:
    """Bits of whole words, by hand: no packing function of NumPy is trusted."""
    words_RW = np.zeros((len(allowed_RV), -(-allowed_RV.shape[1] // 32)), np.uint32)
    for row, token in zip(*np.nonzero(allowed_RV), strict=True):
        words_RW[row, token // 32] |= np.uint32(1 << (token % 32))
    return words_RW


def masked(sample: SampleInputs, index: list[int], allowed_RV: np.ndarray) -> SampleInputs:
    sample.mask_index_S = np.array(index, np.int32)
    sample.mask_RW = packed(allowed_RV)
    return sample


@pytest.mark.parametrize("seed", range(12))
def test_a_mask_is_minus_infinity_on_the_logits(cpu: CpuBackend, seed: int) -> None:
    rng = np.random.default_rng(seed)
    vocabulary = int(rng.choice([1, 31, 32, 33, 300, 5003]))
    logits = random_logits(rng, 5, vocabulary)
    allowed_RV = rng.random((3, vocabulary)) < rng.choice([0.02, 0.5, 1.0])
    allowed_RV[:, rng.integers(vocabulary)] = True
    index = [2, -1, 0, 1, 2]
    expected_logits = logits.copy()
    for row, mask in enumerate(index):
        if mask >= 0:
            expected_logits[row, ~allowed_RV[mask]] = -np.inf
    history = [(int(token), int(rng.integers(0, 3))) for token in rng.permutation(vocabulary)[:7]]
    for temperature in (0.0, 0.8):
        for uniform in (0.0, 0.31, 0.99999994):
            changes = {
                "temperature_S": temperature,
                "uniform_S": uniform,
                "top_k_S": int(rng.choice([0, 4])),
                "top_p_S": float(rng.choice([1.0, 0.8])),
                "repetition_S": 1.3,
                "presence_S": 0.4,
                "history": history,
            }
            tokens = cpu.sample(logits, masked(inputs(5, **changes), index, allowed_RV))
            assert tokens.tolist() == cpu.sample(expected_logits, inputs(5, **changes)).tolist()
            for row, mask in enumerate(index):
                assert mask < 0 or allowed_RV[mask, tokens[row]]


def test_a_mask_that_allows_nothing_gives_minus_one(cpu: CpuBackend) -> None:
    logits = np.zeros((2, 40), np.float32)
    nothing = np.zeros((1, 40), np.bool_)
    for temperature in (0.0, 1.0):
        sample = masked(inputs(2, temperature_S=temperature), [0, -1], nothing)
        assert cpu.sample(logits, sample)[0] == -1
        assert cpu.sample(logits, sample)[1] >= 0


def test_bits_past_the_vocabulary_are_not_read(cpu: CpuBackend) -> None:
    sample = inputs(1, temperature_S=0)
    sample.mask_index_S = np.zeros(1, np.int32)
    sample.mask_RW = np.array([[0xFFFFFFFF, 0xFFFFFFF0]], np.uint32)
    logits = np.full((1, 35), -3.0, np.float32)
    logits[0, 34] = 5.0  # bit 2 of the second word: not set
    assert cpu.sample(logits, sample).tolist() == [0]


def test_masks_that_do_not_fit_are_refused(cpu: CpuBackend) -> None:
    logits = np.zeros((2, 40), np.float32)
    for index, shape, message in (
        ([0, 1], (1, 2), "names a mask"),
        ([-2, 0], (1, 2), "names a mask"),
        ([0, 0], (1, 1), "one bit for each token"),
        ([0, 0], (1, 3), "one bit for each token"),
        ([0], (1, 2), "one entry for each row"),
    ):
        sample = inputs(2)
        sample.mask_index_S, sample.mask_RW = np.array(index, np.int32), np.zeros(shape, np.uint32)
        with pytest.raises(EngineError, match=message):
            cpu.sample(logits, sample)
    sample = inputs(2)
    sample.mask_index_S, sample.mask_RW = np.zeros(2, np.int32), np.zeros((1, 2), np.int32)  # type: ignore[assignment]
    with pytest.raises(EngineError, match="refused"):
        cpu.sample(logits, sample)
