"""GGUF: files of the gguf package and of llama.cpp, and a test for every way a header can lie."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from struct import pack

import gguf
import numpy as np
import pytest
from gguf.quants import dequantize as gguf_dequantize
from gguf.quants import quantize as gguf_quantize
from gguf_bytes import ARRAY, BOOL, FLOAT32, STRING, UINT8, UINT32, array, pair, string, tensor
from gguf_bytes import gguf as build

from vivace.core.errors import EngineError, ModelFileError
from vivace.formats.dequantize import dequantize
from vivace.formats.gguf import GGUFFile

F32_ROW = np.arange(8, dtype="<f4").tobytes()


def parse(blob: bytes) -> GGUFFile:
    return GGUFFile.parse(memoryview(blob), "x.gguf")


@pytest.fixture
def written(tmp_path: Path) -> tuple[Path, dict[str, np.ndarray]]:
    """A file of the gguf package's writer with one tensor of each type that it can quantise."""
    weights = np.random.default_rng(7).standard_normal((6, 256)).astype(np.float32)
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "llama")
    writer.add_uint8("u8", 255)
    writer.add_int8("i8", -128)
    writer.add_uint16("u16", 65535)
    writer.add_int16("i16", -32768)
    writer.add_uint32("u32", 2**32 - 1)
    writer.add_int32("i32", -(2**31))
    writer.add_uint64("u64", 2**64 - 1)
    writer.add_int64("i64", -(2**63))
    writer.add_float32("f32", 0.5)
    writer.add_float64("f64", 0.1)
    writer.add_bool("yes", True)
    writer.add_bool("no", False)
    writer.add_string("text", "naïve ☃\n")
    writer.add_array("tokens", ["a", "", "ü", "<0x00>"])
    writer.add_array("ints", [1, -2, 3])
    writer.add_array("floats", [0.5, -1.5])
    writer.add_array("bools", [True, False, True])
    expected = {}
    for name in ("F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"):
        kind = gguf.GGMLQuantizationType[name]
        data = gguf_quantize(weights, kind)
        writer.add_tensor(f"matrix.{name}", data, raw_dtype=kind)
        expected[f"matrix.{name}"] = gguf_dequantize(data, kind)
    writer.add_tensor("vector", weights[0])
    expected["vector"] = weights[0]
    cube = np.ascontiguousarray(weights.reshape(2, 3, 256))
    writer.add_tensor("cube", cube)
    expected["cube"] = cube
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return tmp_path / "m.gguf", expected


def test_metadata_of_the_gguf_package(written: tuple[Path, dict[str, np.ndarray]]) -> None:
    metadata = dict(GGUFFile.open(written[0]).metadata)
    arrays = {name: metadata.pop(name) for name in ("ints", "floats", "bools")}
    assert metadata == {
        "general.architecture": "llama",
        "u8": 255,
        "i8": -128,
        "u16": 65535,
        "i16": -32768,
        "u32": 2**32 - 1,
        "i32": -(2**31),
        "u64": 2**64 - 1,
        "i64": -(2**63),
        "f32": 0.5,
        "f64": 0.1,
        "yes": True,
        "no": False,
        "text": "naïve ☃\n",
        "tokens": ["a", "", "ü", "<0x00>"],
    }
    assert metadata["yes"] is True
    assert metadata["no"] is False
    assert {name: value.tolist() for name, value in arrays.items()} == {
        "ints": [1, -2, 3],
        "floats": [0.5, -1.5],
        "bools": [True, False, True],
    }
    assert [arrays[name].dtype for name in ("ints", "floats", "bools")] == [np.int32, np.float32, np.bool_]


def test_tensors_of_the_gguf_package(written: tuple[Path, dict[str, np.ndarray]]) -> None:
    path, expected = written
    file = GGUFFile.open(path)
    assert list(file.tensors) == list(expected)
    for name, weights in expected.items():
        stored = file.tensors[name]
        assert stored.shape == weights.shape
        assert stored.num_rows == weights.size // weights.shape[-1]
        assert not stored.data.flags.owndata
        assert not stored.data.flags.writeable
        np.testing.assert_array_equal(dequantize(stored), weights)


def test_tensors_outlive_close(written: tuple[Path, dict[str, np.ndarray]]) -> None:
    path, expected = written
    file = GGUFFile.open(path)
    stored = file.tensors["vector"]
    file.close()
    np.testing.assert_array_equal(dequantize(stored), expected["vector"])
    with pytest.raises(EngineError, match="closed"):
        file.tensors["cube"]


@pytest.mark.parametrize("name", ["gpt-2", "llama-spm"])
def test_vocabularies_of_llama_cpp_as_the_gguf_package_reads_them(shared: Path, name: str) -> None:
    path = shared / "tokenizers" / "llama.cpp-vocabs" / f"ggml-vocab-{name}.gguf"
    ours = GGUFFile.open(path)
    assert len(ours.tensors) == 0
    theirs = gguf.GGUFReader(path).fields
    assert set(ours.metadata) == {key for key in theirs if not key.startswith("GGUF.")}
    for key, value in ours.metadata.items():
        expected = theirs[key].contents()
        assert (value.tolist() if isinstance(value, np.ndarray) else value) == expected


def test_version_2_and_an_alignment_of_64() -> None:
    data = F32_ROW + bytes(32) + F32_ROW
    records = (tensor("a", (8,)), tensor("b", (4, 2), offset=64))
    blob = build((pair("general.alignment", UINT32, pack("<I", 64)),), records, data, version=2, alignment=64)
    file = parse(blob)
    assert file.version == 2
    assert dequantize(file.tensors["a"]).tolist() == list(range(8))
    assert dequantize(file.tensors["b"]).tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]]


def test_unsupported_types_are_listed_and_named_when_asked_for() -> None:
    file = parse(build((), (tensor("old", (256,), 10), tensor("ids", (8,), 26, 96)), bytes(128)))
    assert list(file.tensors) == ["old", "ids"]
    assert file.tensors.entry("old").type_name == "Q2_K"
    for name, word in [("old", "Q2_K"), ("ids", "I32")]:
        with pytest.raises(ModelFileError, match=word) as caught:
            file.tensors[name]
        assert caught.value.field == name


def test_a_vocabulary_of_150_000_tokens_parses() -> None:
    tokens = [string(f"token {index}") for index in range(150_000)]
    file = parse(build((pair("tokens", ARRAY, array(STRING, tokens)),)))
    value = file.metadata["tokens"]
    assert isinstance(value, list)
    assert value == [f"token {index}" for index in range(150_000)]


def alignment(value_type: int, value: bytes) -> bytes:
    return build((pair("general.alignment", value_type, value),))


ONE = tensor("w", (8,))
HUGE = (0, 2**31, 2**32 - 1, 2**62, 2**63 - 1, 2**63, 2**64 - 1)
HOSTILE: dict[str, tuple[bytes, str, str, int | None]] = {
    # name: (file, words of the message, field, offset)
    "magic": (build(magic=b"GGML"), "not a GGUF file", "magic", 0),
    "magic cut short": (b"GG", "not a GGUF file", "magic", 0),
    "cut after magic": (b"GGUF", "needs 4 bytes", "version", 4),
    "cut after version": (b"GGUF\3\0\0\0", "needs 8 bytes", "tensor_count", 8),
    "version 0": (build(version=0), "version 0", "version", 4),
    "version 1": (build(version=1), "version 1", "version", 4),
    "version future": (build(version=4), "version 4", "version", 4),
    "big-endian": (build(version=3 << 24), "big-endian", "version", 4),
    "key length": (build((string("k", 2**40) + pack("<II", UINT32, 1),)), "bytes left|left", "key 0", 24),
    "key over the limit": (build((pair(b"k" * 70_000, UINT8, b"\1"),)), "limit is 65535", "key 0", 24),
    "key not UTF-8": (build((pair(b"a\xff", UINT8, b"\1"),)), "UTF-8", "key 0", 33),
    "key twice": (build((pair("k", UINT8, b"\1"), pair("k", UINT8, b"\1"))), "twice", "k", 38),
    "value type": (build((pair("k", 13, bytes(8)),)), "value type 13", "k", 33),
    "value cut short": (build((pair("k" * 6, 10, b""),), alignment=1), "needs 8 bytes", "k" * 6, 42),
    "boolean of 2": (build((pair("k", BOOL, b"\2"),)), "neither 0 nor 1", "k", 37),
    "boolean array of 2": (build((pair("k", ARRAY, array(BOOL, [b"\0", b"\2"])),)), "neither", "k", 50),
    "string not UTF-8": (build((pair("k", STRING, string(b"a\xff")),)), "UTF-8", "k", 46),
    "array item type": (build((pair("k", ARRAY, array(99, [])),)), "item type 99", "k", 37),
    "array of arrays": (build((pair("k", ARRAY, array(ARRAY, [array(UINT8, [])])),)), "of arrays", "k", 37),
    "string in array not UTF-8": (build((pair("k", ARRAY, array(STRING, [string(b"\xff")])),)), "UTF-8", "k", 57),
    "string in array too long": (
        build((pair("k", ARRAY, array(STRING, [string("a"), string("b", 2**63)])),)),
        "string 1 of 2",
        "k",
        58,
    ),
    "strings one too many": (
        build((pair("k", ARRAY, array(STRING, [string("abcdefgh")], count=2)),), alignment=1),
        "string 1 of 2",
        "k",
        65,
    ),
    "alignment 0": (alignment(UINT32, pack("<I", 0)), "power of two", "general.alignment", 49),
    "alignment 48": (alignment(UINT32, pack("<I", 48)), "power of two", "general.alignment", 49),
    "alignment true": (alignment(BOOL, b"\1"), "power of two", "general.alignment", 49),
    "alignment 1.0": (alignment(FLOAT32, pack("<f", 1)), "power of two", "general.alignment", 49),
    "alignment text": (alignment(STRING, string("32" * 99)), "power of two", "general.alignment", 49),
    "alignment past the end": (
        build((pair("general.alignment", UINT32, pack("<I", 2**31)),), (ONE,), F32_ROW),
        "past|passes the end",
        "w",
        None,
    ),
    "tensor name length": (build((), (string("w", 2**40) + bytes(40),)), "left", "tensor 0", 24),
    "tensor name endless": (build((), (tensor("w" * 2000, (8,)),), F32_ROW), "limit is 1024", "tensor 0", 24),
    "tensor name not UTF-8": (build((), (tensor(b"\xff", (8,)),), F32_ROW), "UTF-8", "tensor 0", 32),
    "tensor twice": (build((), (ONE, tensor("w", (8,), offset=32)), F32_ROW * 2), "twice", "w", 57),
    "no dimensions": (build((), (tensor("w", (8,), num_dims=0),), F32_ROW), "0 dimensions", "w", 33),
    "five dimensions": (build((), (tensor("w", (1, 1, 1, 1, 8)),), F32_ROW), "5 dimensions", "w", 33),
    "2^32-1 dimensions": (build((), (tensor("w", (8,), num_dims=2**32 - 1),), F32_ROW), "dimensions", "w", 33),
    "dimension 0": (build((), (tensor("w", (8, 0)),), F32_ROW), "no elements", "w", 33),
    "dimensions overflow": (build((), (tensor("w", (2**32, 2**32)),), F32_ROW), "too many", "w", 33),
    "dimensions overflow to 8": (build((), (tensor("w", (2**61 + 1, 8)),), F32_ROW), "too many", "w", 33),
    "tensor type": (build((), (tensor("w", (8,), 99),), F32_ROW), "type 99", "w", 45),
    "tensor type removed": (build((), (tensor("w", (8,), 4),), F32_ROW), "type 4", "w", 45),
    "half a block": (build((), (tensor("w", (40,), 8),), bytes(64)), "multiples of 32", "w", 33),
    "offset misaligned": (build((), (tensor("w", (8,), offset=4),), bytes(64)), "multiple of the al", "w", 49),
    "offset past the end": (build((), (tensor("w", (8,), offset=2**63),), F32_ROW), "truncated", "w", 49),
    "offset overflows": (build((), (tensor("w", (8,), offset=2**64 - 32),), F32_ROW), "truncated", "w", 49),
    "data cut short": (build((), (ONE,), F32_ROW[:-1]), "truncated", "w", 49),
    "data overlap": (build((), (tensor("a", (16,)), tensor("b", (8,), offset=32)), bytes(64)), "overlaps", "b", None),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_file(case: str) -> None:
    blob, words, field, offset = HOSTILE[case]
    with pytest.raises(ModelFileError, match=words) as caught:
        parse(blob)
    assert caught.value.field == field
    assert caught.value.offset is not None
    if offset is not None:
        assert caught.value.offset == offset
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("number", HUGE[1:])
@pytest.mark.parametrize("place", ["tensors", "pairs", "string", "string array", "number array", "dimension"])
def test_huge_numbers_allocate_nothing(place: str, number: int) -> None:
    blob = {
        "tensors": lambda: build(num_tensors=number),
        "pairs": lambda: build(num_pairs=number),
        "string": lambda: build((pair("k", STRING, string("v", number)),)),
        "string array": lambda: build((pair("k", ARRAY, array(STRING, [], number)),)),
        "number array": lambda: build((pair("k", ARRAY, array(UINT32, [], number)),)),
        "dimension": lambda: build((), (tensor("w", (number,)),), F32_ROW),
    }[place]()
    tracemalloc.start()
    try:
        with pytest.raises(ModelFileError):
            parse(blob)
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


def test_every_truncation_is_refused(written: tuple[Path, dict[str, np.ndarray]]) -> None:
    blob = written[0].read_bytes()
    file = parse(blob)
    end = max(file.tensors.entry(name).start + file.tensors.entry(name).num_bytes for name in file.tensors)
    first = min(file.tensors.entry(name).start for name in file.tensors)
    for size in [*range(first + 64), *range(first + 64, end, 997), end - 1]:
        with pytest.raises(ModelFileError):
            parse(blob[:size])
    parse(blob[:end])
