"""Colours that everybody can tell apart: contrast by WCAG 2, colour blindness by Machado et al. (2009)."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from vivace.charts.palette import DARK, LIGHT, in_light, series_color

# What the three kinds of dichromats see of linear RGB: the published matrices of severity 1.0.
VISION = {
    "all colours": np.eye(3),
    "protanopia": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    ),
    "deuteranopia": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
    ),
    "tritanopia": np.array(
        [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]]
    ),
}
TO_XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
WHITE = TO_XYZ.sum(axis=1)


def linear(color: str) -> np.ndarray:
    values = np.array([int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def lab(rgb: np.ndarray) -> np.ndarray:
    x, y, z = np.cbrt(np.maximum(TO_XYZ @ np.clip(rgb, 0, 1), 1e-6) / WHITE)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def contrast(one: str, other: str) -> float:
    low, high = sorted(float(TO_XYZ[1] @ linear(color)) for color in (one, other))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("colors", [LIGHT, DARK], ids=["light", "dark"])
def test_words_and_marks_stand_out_from_their_ground(colors: dict[str, str]) -> None:
    assert contrast(colors["ink"], colors["ground"]) >= 7
    assert contrast(colors["faint"], colors["ground"]) >= 4.5
    for name, color in colors.items():
        if name.startswith("series"):
            assert contrast(color, colors["ground"]) >= 3, name


@pytest.mark.parametrize("vision", VISION)
@pytest.mark.parametrize("colors", [LIGHT, DARK], ids=["light", "dark"])
def test_series_are_apart_for_every_reader(colors: dict[str, str], vision: str) -> None:
    """A difference of 10 in CIE 1976 is about five times what can just be seen; the first four keep more."""
    seen = {name: lab(VISION[vision] @ linear(c)) for name, c in colors.items() if name.startswith("series")}
    for one, other in itertools.combinations(seen, 2):
        distance = float(np.linalg.norm(seen[one] - seen[other]))
        assert distance >= (14 if max(one, other) <= "series-4" else 9), (one, other, distance)


def test_both_grounds_know_the_same_names() -> None:
    assert LIGHT.keys() == DARK.keys()


def test_variables_become_colours() -> None:
    assert in_light(f'<a fill="{series_color(0)}"/>') == f'<a fill="{LIGHT["series-1"]}"/>'
    assert series_color(6) == series_color(0)
