"""safetensors: files of the official package, files of ours read by it, and headers that lie."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import safetensors.torch
import torch

from vivace.core.errors import EngineError, ModelFileError, UnsupportedError
from vivace.formats.dequantize import dequantize
from vivace.formats.quantize_rtn import encode
from vivace.formats.safetensors import MAX_HEADER_BYTES, SafetensorsFile
from vivace.formats.safetensors_writer import write_safetensors


def parse(header: str | bytes, data: bytes = b"", length: int | None = None) -> SafetensorsFile:
    text = header.encode() if isinstance(header, str) else header
    blob = (len(text) if length is None else length).to_bytes(8, "little") + text + data
    return SafetensorsFile.parse(memoryview(blob), "x.safetensors")


def entry(dtype: str = "F32", shape: object = (1,), offsets: object = (0, 4)) -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


def test_files_of_the_official_package(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(3)
    tensors = {
        f"{dtype}{shape}": torch.randn(shape, generator=generator).to(dtype)
        for dtype in (torch.float32, torch.float16, torch.bfloat16)
        for shape in ((5, 7), (3,), (2, 3, 4), ())
    }
    safetensors.torch.save_file(tensors, tmp_path / "m.safetensors", {"format": "pt"})
    file = SafetensorsFile.open(tmp_path / "m.safetensors")
    assert file.metadata == {"format": "pt"}
    assert set(file.tensors) == set(tensors)
    for name, tensor in tensors.items():
        stored = file.tensors[name]
        assert stored.shape == tuple(tensor.shape)
        np.testing.assert_array_equal(dequantize(stored), tensor.float().numpy())


def test_views_are_read_only_and_outlive_close(tmp_path: Path) -> None:
    safetensors.numpy.save_file({"w": np.arange(6, dtype=np.float32).reshape(2, 3)}, tmp_path / "m.safetensors")
    file = SafetensorsFile.open(tmp_path / "m.safetensors")
    stored = file.tensors["w"]
    assert not stored.data.flags.writeable
    assert not stored.data.flags.owndata
    file.close()
    assert dequantize(stored).tolist() == [[0, 1, 2], [3, 4, 5]]
    with pytest.raises(EngineError, match="closed"):
        file.tensors["w"]


def test_other_dtypes_are_listed_but_no_weights(tmp_path: Path) -> None:
    tensors = {
        "ids": torch.arange(4),
        "bytes": torch.zeros(3, dtype=torch.uint8),
        "eight": torch.zeros(2, 2).to(torch.float8_e4m3fn),
        "none": torch.zeros(0, 4),
    }
    safetensors.torch.save_file(tensors, tmp_path / "m.safetensors")
    table = SafetensorsFile.open(tmp_path / "m.safetensors").tensors
    assert set(table) == set(tensors)
    for name, word in [("ids", "I64"), ("bytes", "U8"), ("eight", "F8_E4M3"), ("none", "no elements")]:
        assert name in table
        with pytest.raises(ModelFileError, match=word) as caught:
            table[name]
        assert caught.value.field == name


def test_written_files_are_read_by_the_official_package(tmp_path: Path) -> None:
    numbers = np.random.default_rng(1).standard_normal((4, 6)).astype(np.float32)
    tensors = {
        "packed": np.arange(7, dtype=np.uint8),
        "half": encode(numbers, "f16"),
        "brain": encode(numbers, "bf16"),
        "plain": encode(numbers[0], "f32"),
        "strided": numbers.T,
        "big_endian": numbers.astype(">f4"),
        "flag": np.array([True, False]),
        "double": numbers.astype(np.float64),
        "scalar": np.array(7, np.int64),
        "empty": np.zeros((0, 3), np.int32),
    }
    path = tmp_path / "new.safetensors"
    write_safetensors(path, tensors, {"made": "here", "text": "é"})
    with safetensors.safe_open(path, "pt") as file:
        assert file.metadata() == {"made": "here", "text": "é"}
        read = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    assert set(read) == set(tensors)
    torch_numbers = torch.from_numpy(numbers)
    assert torch.equal(read["half"], torch_numbers.half())
    assert torch.equal(read["brain"], torch_numbers.bfloat16())
    assert torch.equal(read["plain"], torch_numbers[0])
    assert torch.equal(read["strided"], torch_numbers.T)
    assert torch.equal(read["big_endian"], torch_numbers)
    assert torch.equal(read["double"], torch_numbers.double())
    assert read["packed"].tolist() == list(range(7))
    assert read["flag"].tolist() == [True, False]
    assert read["scalar"].item() == 7
    assert read["empty"].shape == (0, 3)
    assert (8 + int.from_bytes(path.read_bytes()[:8], "little")) % 64 == 0
    assert SafetensorsFile.open(path).metadata == {"made": "here", "text": "é"}


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    write_safetensors(path, {"w": np.zeros(2, np.float32)})
    before = path.read_bytes()
    with pytest.raises(UnsupportedError, match="q8_0"):
        write_safetensors(path, {"w": encode(np.zeros((1, 32), np.float32), "q8_0")})
    with pytest.raises(UnsupportedError, match="complex64"):
        write_safetensors(path, {"w": np.zeros(2, np.complex64)})
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["m.safetensors"]


def test_no_tensors_at_all() -> None:
    assert len(parse("{}").tensors) == 0


HOSTILE_HEADERS: dict[str, tuple[Callable[[], SafetensorsFile], str]] = {
    "length 2^63": (lambda: parse("{}", length=2**63), "header length"),
    "length past the end": (lambda: parse("{}", length=3), "header length"),
    "length over the cap": (lambda: parse("{" + " " * MAX_HEADER_BYTES + "}"), "header length"),
    "no JSON": (lambda: parse("{nope}"), "JSON"),
    "not an object": (lambda: parse("[]"), "begin with {"),
    "empty header": (lambda: parse(""), "begin with {"),
    "invalid UTF-8": (lambda: parse(b'{"\xff":1}'), "JSON"),
    "nested without end": (lambda: parse('{"a":' + "[" * 100_000 + "]" * 100_000 + "}"), "JSON"),
    "endless number": (lambda: parse('{"a":' + "9" * 5000 + "}"), "JSON"),
    "NaN": (lambda: parse('{"a":NaN}'), "NaN"),
    "duplicate tensor": (
        lambda: parse('{"w":' + json.dumps(entry()) + ',"w":' + json.dumps(entry()) + "}", bytes(4)),
        "twice",
    ),
    "duplicate key in a tensor": (
        lambda: parse('{"w":{"dtype":"F32","dtype":"F32","shape":[1],"data_offsets":[0,4]}}', bytes(4)),
        "twice",
    ),
    "endless name": (lambda: parse(json.dumps({"w" * 2000: entry()}), bytes(4)), "characters"),
    "bytes after the header": (lambda: parse("{}", b"x"), "belong to none"),
}
HOSTILE_TENSORS: dict[str, tuple[object, int, str]] = {
    "not an object": (3, 4, "needs dtype"),
    "key missing": ({"dtype": "F32", "shape": [1]}, 4, "needs dtype"),
    "key unknown": ({**entry(), "more": 1}, 4, "needs dtype"),
    "dtype unknown": (entry("F33"), 4, "F33"),
    "dtype no string": (entry(["F32"]), 4, "unknown"),
    "dtype size wrong": (entry("F64"), 4, "does not fill"),
    "shape too large": (entry(shape=[2]), 4, "does not fill"),
    "shape overflows": (entry(shape=[2**62, 2**62, 16]), 4, "does not fill"),
    "shape negative": (entry(shape=[-1, -1]), 4, "shape"),
    "shape fractional": (entry(shape=[1.0]), 4, "shape"),
    "shape true": (entry(shape=[True]), 4, "shape"),
    "shape 2^63": (entry(shape=[2**63, 0], offsets=[0, 0]), 0, "shape"),
    "shape of 17 dimensions": (entry(shape=[1] * 17), 4, "shape"),
    "offsets falling": (entry(offsets=[4, 0]), 4, "data_offsets"),
    "offsets three": (entry(offsets=[0, 4, 8]), 4, "data_offsets"),
    "offsets negative": (entry(offsets=[-4, 0]), 4, "data_offsets"),
    "data past the end": (entry(), 3, "past the end"),
    "hole before": (entry(offsets=[4, 8]), 8, "hole"),
    "hole after": (entry(), 8, "belong to none"),
}


@pytest.mark.parametrize("case", HOSTILE_HEADERS)
def test_hostile_header(case: str) -> None:
    action, words = HOSTILE_HEADERS[case]
    with pytest.raises(ModelFileError, match=words):
        action()


@pytest.mark.parametrize("case", HOSTILE_TENSORS)
def test_hostile_tensor(case: str) -> None:
    value, num_bytes, words = HOSTILE_TENSORS[case]
    with pytest.raises(ModelFileError, match=words) as caught:
        parse(json.dumps({"w": value}), bytes(num_bytes))
    assert caught.value.offset is not None


def test_overlap() -> None:
    header = json.dumps({"a": entry(shape=[2], offsets=[0, 8]), "b": entry(offsets=[4, 8])})
    with pytest.raises(ModelFileError, match="overlaps") as caught:
        parse(header, bytes(8))
    assert caught.value.field == "b"


@pytest.mark.parametrize("metadata", [3, [], {"a": 1}, {"a": None}, "text"])
def test_metadata_must_be_strings(metadata: object) -> None:
    with pytest.raises(ModelFileError, match="metadata"):
        parse(json.dumps({"__metadata__": metadata}))


@pytest.mark.parametrize("size", [0, 7])
def test_too_short(tmp_path: Path, size: int) -> None:
    (tmp_path / "m.safetensors").write_bytes(bytes(size))
    with pytest.raises(ModelFileError, match=r"empty|too few"):
        SafetensorsFile.open(tmp_path / "m.safetensors")
