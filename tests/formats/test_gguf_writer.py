"""What the writer writes, our reader and the `gguf` package read."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest

from vivace.core.errors import EngineError, UnsupportedError
from vivace.formats.dequantize import dequantize
from vivace.formats.gguf import GGUFFile
from vivace.formats.gguf_writer import GGUFTensor, write_gguf
from vivace.formats.quantize_rtn import encode
from vivace.formats.tensor import StoredTensor

METADATA = {
    "general.architecture": "llama",
    "a.flag": True,
    "a.count": 7,
    "a.negative": -3,
    "a.large": 1 << 40,
    "a.low": -(1 << 40),
    "a.number": 0.1,
    "a.text": "Ünïcødé 日本",
    "a.empty": [],
    "a.texts": ["", "a b", "😀"],
    "a.int32": np.array([1, -2, 3], np.int32),
    "a.float32": np.array([0.5, -1.5], np.float32),
    "a.flags": np.array([True, False, True]),
}
ENCODINGS = ("f32", "f16", "bf16", "q8_0", "q4_0")


def weights(seed: int, shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def tensor(name: str, stored: StoredTensor) -> GGUFTensor:
    return GGUFTensor(name, stored.encoding, stored.shape, lambda: stored)


def same(ours: object, theirs: object) -> bool:
    if isinstance(theirs, np.ndarray):
        return isinstance(ours, np.ndarray) and ours.dtype == theirs.dtype and np.array_equal(ours, theirs)
    return np.float32(ours) == np.float32(theirs) if isinstance(theirs, float) else ours == theirs


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("gguf") / "all.gguf"
    tensors = [tensor(f"t.{name}", encode(weights(1, (5, 64)), name)) for name in ENCODINGS]
    tensors.append(tensor("t.vector", encode(weights(2, (3,)), "f32")))  # 12 bytes: the next one must be aligned
    tensors.append(tensor("t.last", encode(weights(3, (2, 32)), "q4_0")))
    write_gguf(path, METADATA, tensors)
    return path


def test_our_reader_gives_back_what_was_written(written: Path) -> None:
    file = GGUFFile.open(written)
    assert file.version == 3
    assert list(file.metadata) == list(METADATA)
    assert all(same(file.metadata[key], value) or value == [] for key, value in METADATA.items())
    assert len(file.metadata["a.empty"]) == 0
    for name in ENCODINGS:
        np.testing.assert_array_equal(file.tensors[f"t.{name}"].data, encode(weights(1, (5, 64)), name).data)
    np.testing.assert_array_equal(dequantize(file.tensors["t.vector"]), weights(2, (3,)))
    assert file.tensors["t.last"].shape == (2, 32)


def test_the_gguf_package_reads_the_same(written: Path) -> None:
    reader = gguf.GGUFReader(written)
    for key, value in METADATA.items():
        contents = reader.fields[key].contents()
        expected = value.tolist() if isinstance(value, np.ndarray) else value
        assert contents == (pytest.approx(expected) if isinstance(expected, float) else expected), key
    types = {tensor.name: tensor.tensor_type.name for tensor in reader.tensors}
    assert types == {f"t.{name}": name.upper() for name in ENCODINGS} | {"t.vector": "F32", "t.last": "Q4_0"}
    ours = GGUFFile.open(written).tensors
    for one in reader.tensors:
        theirs = gguf.dequantize(one.data, one.tensor_type)
        np.testing.assert_array_equal(theirs.reshape(ours[one.name].shape), dequantize(ours[one.name]))


@pytest.mark.parametrize(
    ("value", "message"),
    [(1 << 64, "64 bits"), (None, "NoneType"), ([1, 2], "list"), (np.zeros((2, 2)), "2 dimensions"),
     (np.zeros(2, np.complex64), "complex64")],
)  # fmt: skip
def test_values_without_a_type_are_refused_and_nothing_is_written(value, message: str, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match=message):
        write_gguf(tmp_path / "bad.gguf", {"a.key": value}, [])
    assert list(tmp_path.iterdir()) == []


def test_a_tensor_that_is_not_what_was_announced_leaves_no_file(tmp_path: Path) -> None:
    stored = encode(weights(1, (2, 32)), "q8_0")
    with pytest.raises(EngineError, match="announced f32"):
        write_gguf(tmp_path / "bad.gguf", {}, [GGUFTensor("t", "f32", (2, 32), lambda: stored)])
    assert list(tmp_path.iterdir()) == []
