"""Searched encodings: decoded as the `gguf` package decodes them, and close to the best that brute force finds."""

from __future__ import annotations

import gguf
import numpy as np
import pytest

from vivace.core.errors import ConfigError, UnsupportedError
from vivace.formats.dequantize import dequantize
from vivace.formats.quantize_fitted import FITTED_ENCODINGS, encode_fitted
from vivace.formats.tensor import ENCODINGS, StoredTensor, row_bytes

SYMMETRIC = {"q4_0": (-8, 7), "q5_0": (-16, 15)}
AFFINE = {"q4_1": 15, "q5_1": 31}
SUB_BLOCKS = {"q4_k": (32, 15), "q5_k": (32, 31)}


def weights_of(seed: int, rows: int = 16, width: int = 512) -> np.ndarray:
    """Normal numbers with a few large ones, each row of another size."""
    generator = np.random.default_rng(seed)
    numbers = generator.standard_normal((rows, width)) * np.exp(generator.uniform(-6, 0, (rows, 1)))
    numbers[generator.random(numbers.shape) < 0.01] *= 4
    return numbers.astype(np.float32)


def importance_of(seed: int, width: int = 512) -> np.ndarray:
    return np.exp(np.random.default_rng(seed).standard_normal(width) * 1.5).astype(np.float32)


def cost(tensor: StoredTensor, weights: np.ndarray, importance: np.ndarray | float = 1.0) -> float:
    return float((importance * (dequantize(tensor).astype(np.float64) - weights) ** 2).sum())


def best_symmetric(block: np.ndarray, costs: np.ndarray, low: int, high: int) -> float:
    """The lowest cost over 6,000 scales of either sign, float64."""
    largest = np.abs(block).max()
    scales = np.linspace(0.3, 1.4, 3000) * largest / -low
    scales = np.concatenate([scales, -scales])[:, None]
    codes = np.clip(np.rint(block / scales), low, high)
    return float((costs * (block - scales * codes) ** 2).sum(axis=1).min())


def best_affine(block: np.ndarray, costs: np.ndarray, num_steps: int, largest_offset: float | None) -> float:
    """The lowest cost over a grid of ranges, scale and offset then solved for with the codes held, float64."""
    low, high = block.min(), block.max()
    width = high - low
    starts = low + np.linspace(-0.05, 0.35, 60)[:, None] * width
    scales = (high - np.linspace(-0.05, 0.35, 60)[None, :] * width - starts) / num_steps
    starts, scales = np.broadcast_arrays(starts, scales)
    codes = np.clip(np.rint((block - starts[..., None]) / scales[..., None]), 0, num_steps)
    ones, first, second = costs.sum(), (costs * codes).sum(-1), (costs * codes**2).sum(-1)
    total, product = (costs * block).sum(), (costs * codes * block).sum(-1)
    scale = (ones * product - total * first) / (ones * second - first**2)
    offset = (total - scale * first) / ones
    if largest_offset is not None:
        scale = np.where(offset > largest_offset, product / second, scale)
        offset = np.minimum(offset, largest_offset)
    codes = np.clip(np.rint((block - offset[..., None]) / scale[..., None]), 0, num_steps)
    return float((costs * (block - scale[..., None] * codes - offset[..., None]) ** 2).sum(-1).min())


@pytest.mark.parametrize("encoding", FITTED_ENCODINGS)
def test_the_gguf_package_decodes_the_same(encoding: str) -> None:
    for weights, importance in ((weights_of(1), None), (weights_of(2, 300, 1024), importance_of(2, 1024))):
        tensor = encode_fitted(weights, encoding, "w", importance)
        assert (tensor.name, tensor.encoding, tensor.shape) == ("w", encoding, weights.shape)
        theirs = gguf.dequantize(tensor.data, gguf.GGMLQuantizationType[encoding.upper()])
        np.testing.assert_array_equal(theirs.view(np.uint32), dequantize(tensor).view(np.uint32))


@pytest.mark.parametrize("encoding", SYMMETRIC)
@pytest.mark.parametrize("has_importance", [False, True])
def test_symmetric_blocks_are_near_the_best_scale_there_is(encoding: str, has_importance: bool) -> None:
    weights, low_high = weights_of(3, 4, 128), SYMMETRIC[encoding]
    importance = importance_of(3, 128) if has_importance else np.ones(128, np.float32)
    actual = cost(encode_fitted(weights, encoding, "w", importance), weights, importance)
    blocks, costs = weights.astype(np.float64).reshape(-1, 32), np.tile(importance, 4).reshape(-1, 32)
    best = sum(best_symmetric(block, cost, *low_high) for block, cost in zip(blocks, costs, strict=True))
    assert best * 0.98 <= actual <= best * 1.06


@pytest.mark.parametrize("encoding", AFFINE)
@pytest.mark.parametrize("has_importance", [False, True])
def test_affine_blocks_are_near_the_best_range_there_is(encoding: str, has_importance: bool) -> None:
    weights = weights_of(4, 4, 128)
    importance = importance_of(4, 128) if has_importance else np.ones(128, np.float32)
    actual = cost(encode_fitted(weights, encoding, "w", importance), weights, importance)
    blocks, costs = weights.astype(np.float64).reshape(-1, 32), np.tile(importance, 4).reshape(-1, 32)
    best = sum(best_affine(block, cost, AFFINE[encoding], None) for block, cost in zip(blocks, costs, strict=True))
    assert best * 0.9 <= actual <= best * 1.06


@pytest.mark.parametrize("encoding", SUB_BLOCKS)
@pytest.mark.parametrize("has_importance", [False, True])
def test_super_blocks_lose_little_by_sharing_units(encoding: str, has_importance: bool) -> None:
    """The bound lets every block have a scale and an offset of full precision: more so, the more the costs differ."""
    weights, (size, num_steps) = weights_of(5, 2, 512), SUB_BLOCKS[encoding]
    importance = importance_of(5) if has_importance else np.ones(512, np.float32)
    actual = cost(encode_fitted(weights, encoding, "w", importance), weights, importance)
    blocks, costs = weights.astype(np.float64).reshape(-1, size), np.tile(importance, 2).reshape(-1, size)
    best = sum(best_affine(block, cost, num_steps, 0.0) for block, cost in zip(blocks, costs, strict=True))
    assert best * 0.9 <= actual <= best * (1.45 if has_importance else 1.1)


@pytest.mark.parametrize("has_importance", [False, True])
def test_six_bits_lose_little_by_sharing_a_unit(has_importance: bool) -> None:
    weights = weights_of(6, 2, 512)
    importance = importance_of(6) if has_importance else np.ones(512, np.float32)
    actual = cost(encode_fitted(weights, "q6_k", "w", importance), weights, importance)
    blocks, costs = weights.astype(np.float64).reshape(-1, 16), np.tile(importance, 2).reshape(-1, 16)
    best = sum(best_symmetric(block, cost, -32, 31) for block, cost in zip(blocks, costs, strict=True))
    assert best * 0.95 <= actual <= best * (1.3 if has_importance else 1.1)


@pytest.mark.parametrize("encoding", FITTED_ENCODINGS)
def test_importance_lowers_the_error_that_it_weighs(encoding: str) -> None:
    weights, importance = weights_of(7), importance_of(7)
    plain = cost(encode_fitted(weights, encoding), weights, importance)
    assert cost(encode_fitted(weights, encoding, "w", importance), weights, importance) < 0.93 * plain


@pytest.mark.parametrize("encoding", ["q4_0", "q4_1", "q5_0", "q5_1"])
def test_the_error_is_below_that_of_rounding_to_nearest(encoding: str) -> None:
    weights = weights_of(8)
    theirs = gguf.quantize(weights, gguf.GGMLQuantizationType[encoding.upper()])
    rounded = StoredTensor("w", encoding, weights.shape, theirs)
    assert cost(encode_fitted(weights, encoding), weights) < 0.95 * cost(rounded, weights)


@pytest.mark.parametrize("encoding", FITTED_ENCODINGS)
def test_more_threads_and_strides_give_the_same_bytes(encoding: str) -> None:
    weights, importance = weights_of(9, 600, 512), importance_of(9)
    one = encode_fitted(weights, encoding, "w", importance)
    np.testing.assert_array_equal(encode_fitted(weights, encoding, "w", importance, num_threads=3).data, one.data)
    strided = np.repeat(weights, 2, axis=1)[:, ::2]
    np.testing.assert_array_equal(encode_fitted(strided, encoding, "w", importance).data, one.data)
    np.testing.assert_array_equal(
        encode_fitted(weights, encoding, "w", importance * np.float32(2**30)).data, one.data
    )


@pytest.mark.parametrize("encoding", FITTED_ENCODINGS)
def test_special_blocks(encoding: str) -> None:
    """Zeros stay zeros; constant, one-sided, tiny and lonely numbers come back within a step of the block's range."""
    rows = np.zeros((8, 512), np.float32)
    rows[1] = 0.75
    rows[2] = -0.75
    rows[3] = np.linspace(1, 2, 512)
    rows[4] = -np.linspace(1, 2, 512)
    rows[5, ::37] = 3.0
    rows[6] = 1e-40
    rows[7] = 32768.0 * np.sign(np.sin(np.arange(512)))
    back = dequantize(encode_fitted(rows, encoding))
    assert np.isfinite(back).all()
    assert not back[0].any()
    assert not back[6].any()
    steps = {"q4_0": 8, "q4_1": 15, "q4_k": 15, "q5_0": 16, "q5_1": 31, "q5_k": 31, "q6_k": 32}[encoding]
    error, largest = np.delete(np.abs(back - rows), 6, axis=0), np.delete(np.abs(rows), 6, axis=0)
    assert (error.max(axis=1) <= largest.max(axis=1) / steps * 1.1).all()


@pytest.mark.parametrize("encoding", FITTED_ENCODINGS)
def test_inputs_that_never_fired_are_not_thrown_away(encoding: str) -> None:
    weights, importance = weights_of(10), importance_of(10)
    importance[::3] = 0
    error = np.abs(dequantize(encode_fitted(weights, encoding, "w", importance)) - weights)
    assert (error.max(axis=1) < np.abs(weights).max(axis=1)).all()
    nothing = encode_fitted(weights, encoding, "w", np.zeros(512, np.float32))
    np.testing.assert_array_equal(nothing.data, encode_fitted(weights, encoding).data)


@pytest.mark.parametrize("encoding", FITTED_ENCODINGS)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 40_000.0])
def test_numbers_that_do_not_fit_are_refused(encoding: str, bad: float) -> None:
    weights = weights_of(11)
    weights[9, 300] = bad
    with pytest.raises(UnsupportedError, match=r"'down'.*use bf16 or f32"):
        encode_fitted(weights, encoding, "down")


def test_other_shapes_and_encodings_are_refused() -> None:
    with pytest.raises(UnsupportedError, match="no search for 'q8_0'"):
        encode_fitted(weights_of(12), "q8_0", "w")
    with pytest.raises(UnsupportedError, match="whole 256"):
        encode_fitted(weights_of(12)[:, :320], "q4_k", "w")
    with pytest.raises(UnsupportedError, match="matrix"):
        encode_fitted(weights_of(12)[0], "q4_k", "w")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda k: k[:-1], r"512 inputs.*511"),
        (lambda k: -k, "negative"),
        (lambda k: k * np.float32(np.nan), "finite"),
    ],
)
def test_an_importance_that_cannot_be_one_is_refused(change, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        encode_fitted(weights_of(13), "q4_k", "w", change(importance_of(13)))


def test_no_rows() -> None:
    empty = encode_fitted(np.zeros((0, 256), np.float32), "q4_k")
    assert empty.data.shape == (0, row_bytes("q4_k", 256))
    assert set(FITTED_ENCODINGS) < set(ENCODINGS)
