"""Importance files: what the `gguf` package writes in llama.cpp's form we read, what we write it reads."""

from __future__ import annotations

import struct
from pathlib import Path

import gguf
import numpy as np
import pytest

from vivace.core.errors import ModelFileError, UnsupportedError, VivaceError
from vivace.quantize.gguf_imatrix import ImportanceMatrix, read_imatrix, write_imatrix

NAME = "blk.0.attn_q.weight"


def write(path: Path, tensors: dict[str, np.ndarray], kind: str = "imatrix") -> Path:
    """As tools/imatrix writes it; GGUF drops trailing dimensions of 1."""
    writer = gguf.GGUFWriter(path, "")
    writer.kv_data[0].clear()
    writer.add_string("general.type", kind)
    writer.add_array("imatrix.datasets", ["wiki.train.raw", "code.txt"])
    writer.add_uint32("imatrix.chunk_count", 7)
    writer.add_uint32("imatrix.chunk_size", 512)
    for name, values in tensors.items():
        writer.add_tensor(name, values.astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_what_llama_cpp_writes_is_read(tmp_path: Path) -> None:
    sums = np.random.default_rng(1).random(64).astype(np.float32) * 1e5
    path = write(tmp_path / "imatrix.gguf", {f"{NAME}.in_sum2": sums, f"{NAME}.counts": np.array([3584.0])})
    matrix = read_imatrix(path)
    assert (matrix.datasets, matrix.num_chunks, matrix.chunk_size) == (("wiki.train.raw", "code.txt"), 7, 512)
    np.testing.assert_array_equal(matrix.importance[NAME], sums / np.float32(3584))


def test_what_we_write_is_read_back_and_by_the_gguf_package(tmp_path: Path) -> None:
    generator = np.random.default_rng(2)
    importance = {f"blk.{layer}.ffn_up.weight": generator.random(32).astype(np.float32) for layer in range(12)}
    write_imatrix(tmp_path / "ours.gguf", ImportanceMatrix(importance, ("a", "b"), 16, 256))
    back = read_imatrix(tmp_path / "ours.gguf")
    assert (back.datasets, back.num_chunks, back.chunk_size) == (("a", "b"), 16, 256)
    assert set(back.importance) == set(importance)
    for name, values in importance.items():
        np.testing.assert_array_equal(back.importance[name], values)  # 4,096 tokens: a power of two rounds nothing
    reader = gguf.GGUFReader(tmp_path / "ours.gguf")
    assert reader.fields["general.type"].contents() == "imatrix"
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    assert tensors["blk.3.ffn_up.weight.in_sum2"].data.shape == (1, 32)
    assert tensors["blk.3.ffn_up.weight.counts"].data.reshape(-1).tolist() == [4096.0]


def test_a_matrix_that_saw_nothing_counts_alike(tmp_path: Path) -> None:
    path = write(tmp_path / "zero.gguf", {f"{NAME}.in_sum2": np.zeros(32), f"{NAME}.counts": np.zeros(1)})
    assert read_imatrix(path).importance[NAME].tolist() == [1.0] * 32


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({f"{NAME}.in_sum2": np.ones(32)}, "counts of this matrix are missing"),
        ({f"{NAME}.in_sum2": np.full(32, np.nan), f"{NAME}.counts": np.ones(1)}, "finite"),
        ({f"{NAME}.in_sum2": -np.ones(32), f"{NAME}.counts": np.ones(1)}, "not negative"),
        ({f"{NAME}.in_sum2": np.ones(32), f"{NAME}.counts": np.full(1, np.inf)}, "finite"),
    ],
)
def test_broken_ones_are_refused(tensors: dict[str, np.ndarray], message: str, tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match=message):
        read_imatrix(write(tmp_path / "bad.gguf", tensors))


def test_other_files_and_mixtures_of_experts_are_refused(tmp_path: Path) -> None:
    good = {f"{NAME}.in_sum2": np.ones((4, 32)), f"{NAME}.counts": np.ones((4, 1))}
    with pytest.raises(UnsupportedError, match="4 experts"):
        read_imatrix(write(tmp_path / "experts.gguf", good))
    with pytest.raises(ModelFileError, match=r"general\.type"):
        read_imatrix(write(tmp_path / "model.gguf", good, kind="model"))


def test_every_truncation_is_refused(tmp_path: Path) -> None:
    tensors = {f"{NAME}.in_sum2": np.ones(8), f"{NAME}.counts": np.ones(1)}
    whole = write(tmp_path / "whole.gguf", tensors).read_bytes()
    needed = whole.rstrip(b"\0")
    for length in range(0, len(needed) - 4, 3):
        (tmp_path / "cut.gguf").write_bytes(whole[:length])
        with pytest.raises(VivaceError):
            read_imatrix(tmp_path / "cut.gguf")


def dat(entries: dict[str, tuple[int, list[float]]], note: tuple[int, str] | None = None) -> bytes:
    """As llama.cpp's imatrix wrote it before GGUF: calls, and means times calls."""
    parts = [struct.pack("<i", len(entries))]
    for name, (calls, values) in entries.items():
        parts.append(struct.pack("<i", len(name)) + name.encode())
        parts.append(struct.pack(f"<ii{len(values)}f", calls, len(values), *values))
    if note is not None:
        parts.append(struct.pack("<ii", note[0], len(note[1].encode())) + note[1].encode())
    return b"".join(parts)


@pytest.mark.parametrize("note", [None, (7, "wiki.train.raw")])
def test_the_older_form_is_read(tmp_path: Path, note: tuple[int, str] | None) -> None:
    entries = {NAME: (4, [2.0, 8.0, 0.0]), "blk.0.ffn_up.weight": (0, [0.0, 0.0])}
    (tmp_path / "imatrix.dat").write_bytes(dat(entries, note))
    matrix = read_imatrix(tmp_path / "imatrix.dat")
    assert {name: values.tolist() for name, values in matrix.importance.items()} == {
        NAME: [0.5, 2.0, 0.0],
        "blk.0.ffn_up.weight": [1.0, 1.0],
    }
    assert (matrix.num_chunks, matrix.datasets) == ((0, ()) if note is None else (7, ("wiki.train.raw",)))


def test_broken_files_of_the_older_form_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "imatrix.dat"
    whole = dat({NAME: (4, [1.0, 2.0]), "blk.1.attn_q.weight": (4, [1.0])}, (7, "wiki"))
    without_note = len(whole) - 12
    for length in set(range(len(whole))) - {without_note}:  # there an older version ends
        path.write_bytes(whole[:length])
        with pytest.raises(ModelFileError):
            read_imatrix(path)
    for broken in (
        dat({NAME: (4, [float("nan")])}),
        dat({NAME: (4, [-1.0])}),
        dat({NAME: (-4, [1.0])}),
        struct.pack("<i", -1) * 8,
        b"no matrix at all, but a text that is long enough",
        b"",
    ):
        path.write_bytes(broken)
        with pytest.raises(ModelFileError):
            read_imatrix(path)
    with pytest.raises(ModelFileError, match="No such file"):
        read_imatrix(tmp_path / "nowhere.dat")
    with pytest.raises(ModelFileError, match="Is a directory"):
        read_imatrix(tmp_path)
