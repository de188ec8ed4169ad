"""Heads as files: what is written comes back, and what is broken is named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open

from vivace.core.errors import ModelFileError
from vivace.models.medusa import MedusaHeads, read_medusa, write_medusa

TREE = ((0,), (1,), (0, 0), (0, 0, 2))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_medusa(tmp_path, heads())
    return tmp_path


def heads() -> MedusaHeads:
    rng = np.random.default_rng(3)  # multiples of 1/8 below 2: exact in bfloat16
    weights, biases = (rng.integers(-15, 16, shape).astype(np.float32) / 8 for shape in ((3, 6, 6), (3, 6)))
    return MedusaHeads(weights, biases, TREE, "f" * 64, 50, {"accuracy": [[0.5]], "training": {"steps": 1}})


def change(folder: Path, **fields: Any) -> None:
    manifest = json.loads((folder / "medusa.json").read_text())
    (folder / "medusa.json").write_text(json.dumps(manifest | fields))


def test_heads_come_back(folder: Path) -> None:
    back = read_medusa(folder)
    np.testing.assert_array_equal(back.weights_KDI, heads().weights_KDI)
    np.testing.assert_array_equal(back.biases_KD, heads().biases_KD)
    assert (back.tree, back.base_fingerprint, back.vocab_size) == (TREE, "f" * 64, 50)
    assert (back.num_heads, back.hidden_size) == (3, 6)
    assert back.facts == {"accuracy": [[0.5]], "training": {"steps": 1}}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("format", "medusa-9"), ("format", 1), ("num_heads", 0), ("num_heads", 17), ("num_heads", "3"),
        ("hidden_size", -1), ("vocab_size", None), ("base_fingerprint", 7), ("weights_sha256", "0" * 64),
        ("tree", []), ("tree", "all"), ("tree", [[0], [0]]), ("tree", [[0, 0]]), ("tree", [[]]), ("tree", [[-1]]),
        ("tree", [[True]]), ("tree", [[0], [0, 0], [0, 0, 0], [0, 0, 0, 0]]), ("tree", [[i] for i in range(1025)]),
    ],
)  # fmt: skip
def test_a_wrong_field_is_named(field: str, value: Any, folder: Path) -> None:
    change(folder, **{field: value})
    with pytest.raises(ModelFileError, match=field):
        read_medusa(folder)


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"[" * 100_000, b"\xff", b"{}"])
def test_a_broken_manifest_is_refused(content: bytes, folder: Path) -> None:
    (folder / "medusa.json").write_bytes(content)
    with pytest.raises(ModelFileError, match=r"medusa\.json"):
        read_medusa(folder)


def test_a_missing_file_is_named(folder: Path) -> None:
    (folder / "medusa.safetensors").unlink()
    with pytest.raises(ModelFileError, match=r"medusa\.safetensors"):
        read_medusa(folder)
    (folder / "medusa.json").unlink()
    with pytest.raises(ModelFileError, match="train-medusa"):
        read_medusa(folder)


def test_a_changed_file_is_noticed(folder: Path) -> None:
    data = bytearray((folder / "medusa.safetensors").read_bytes())
    data[-1] ^= 1
    (folder / "medusa.safetensors").write_bytes(data)
    with pytest.raises(ModelFileError, match="weights_sha256"):
        read_medusa(folder)


def test_a_head_of_another_shape_is_named(folder: Path) -> None:
    change(folder, hidden_size=7)
    with pytest.raises(ModelFileError, match=r"heads\.0\.weight"):
        read_medusa(folder)
    change(folder, hidden_size=6, num_heads=4)
    with pytest.raises(ModelFileError, match=r"heads\.3\.weight"):
        read_medusa(folder)


def test_the_official_reader_opens_the_weights(folder: Path) -> None:
    with safe_open(folder / "medusa.safetensors", "pt") as file:
        assert set(file.keys()) == {f"heads.{k}.{part}" for k in range(3) for part in ("weight", "bias")}
        np.testing.assert_array_equal(file.get_tensor("heads.2.weight").float().numpy(), heads().weights_KDI[2])
