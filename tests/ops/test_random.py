"""Philox against the known-answer vectors that its authors publish with Random123."""

import numpy as np
import pytest

from vivace.ops.random import philox_4x32, uniform, uniforms

KNOWN_ANSWERS = [  # counter, key, output: philox4x32, 10 rounds, from Random123's kat_vectors
    ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
]


def words(text: str) -> np.ndarray:
    return np.array([int(word, 16) for word in text.split()], dtype=np.uint32)


@pytest.mark.parametrize(("counter", "key", "output"), KNOWN_ANSWERS)
def test_known_answers(counter: str, key: str, output: str) -> None:
    assert philox_4x32(words(counter), words(key)).tolist() == words(output).tolist()


def test_all_known_answers_at_once() -> None:
    counters, keys, outputs = (np.stack([words(row[column]) for row in KNOWN_ANSWERS]) for column in range(3))
    assert np.array_equal(philox_4x32(counters, keys), outputs)


def test_uniforms_place_seed_index_and_position() -> None:
    """Seed 0x299f31d0_a4093822 has the third vector's key; its counter words 2 and 3 are zero here."""
    key = words("a4093822 299f31d0")
    expected = philox_4x32(np.array([7, 3, 0, 0], np.uint32), key)[0] >> 8
    value = uniforms(np.uint64(0x299F31D0A4093822), index=3, position=7)
    assert value == np.float32(expected) / 2**24
    assert uniforms(0, 0, 0) == np.float32(0x6627E8) / 2**24


def test_one_number_is_that_of_the_arrays() -> None:
    generator = np.random.default_rng(11)
    seeds = generator.integers(0, 2**64, 500, np.uint64)
    indexes, positions = generator.integers(0, 2**31, 500), generator.integers(0, 2**31, 500)
    expected = uniforms(seeds, indexes, positions).tolist()
    assert [
        uniform(int(seed), int(index), int(position))
        for seed, index, position in zip(seeds, indexes, positions, strict=True)
    ] == expected


def test_uniforms_are_uniform_and_below_one() -> None:
    values = uniforms(np.array([[1], [2]], np.uint64), 0, np.arange(100_000))
    assert values.dtype == np.float32
    assert values.shape == (2, 100_000)
    assert values.min() >= 0
    assert values.max() < 1
    counts = np.stack([np.histogram(row, bins=16, range=(0, 1))[0] for row in values])
    chi_square = ((counts - 6250) ** 2 / 6250).sum(axis=1)
    assert (chi_square < 37.7).all()  # 0.1% point of 15 degrees of freedom
    assert abs(np.corrcoef(values)[0, 1]) < 0.02
