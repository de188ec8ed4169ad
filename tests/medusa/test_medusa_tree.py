"""The greedy tree against all trees of its size."""

from __future__ import annotations

import math
from itertools import combinations, product

import numpy as np
import pytest

from vivace.medusa.tree import build_tree


def path_value(accuracy: list[list[float]], path: tuple[int, ...]) -> float:
    return math.prod(accuracy[head][rank] for head, rank in enumerate(path))


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("size", [1, 3, 5])
def test_no_tree_of_the_size_expects_more_tokens(seed: int, size: int) -> None:
    accuracy = np.random.default_rng(seed).dirichlet(np.ones(4), size=2)[:, :3].tolist()
    paths = [path for depth in (1, 2) for path in product(range(3), repeat=depth)]
    whole = (
        set(chosen) for chosen in combinations(paths, size) if all(len(p) == 1 or p[:1] in chosen for p in chosen)
    )
    best = max(1 + sum(path_value(accuracy, path) for path in tree) for tree in whole)
    assert build_tree(accuracy, size).expected_tokens(size) == pytest.approx(best)


def test_every_prefix_of_the_list_is_a_tree_and_values_fall() -> None:
    accuracy = np.random.default_rng(9).dirichlet(np.ones(12), size=4)[:, :10].tolist()
    tree = build_tree(accuracy, 200)
    seen: set[tuple[int, ...]] = {()}
    for path, value in zip(tree.paths, tree.values, strict=True):
        assert path[:-1] in seen
        assert path not in seen
        assert value == pytest.approx(path_value(accuracy, path))
        seen.add(path)
    assert list(tree.values) == sorted(tree.values, reverse=True)
    assert len(tree.paths) == 200


def test_guesses_that_are_never_right_are_left_out() -> None:
    tree = build_tree([[0.5, 0.0, 0.25], [0.0, 0.0, 0.0]], 10)
    assert tree.paths == ((0,), (2,))
    assert tree.expected_tokens(10) == 1.75
