"""Checkpoints of every layout on disk, and directories that try to reach outside."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest
import safetensors.numpy
import torch

from vivace.core.errors import EngineError, ModelFileError
from vivace.formats.atomic_file import atomic_writer
from vivace.formats.checkpoint import open_checkpoint
from vivace.formats.dequantize import dequantize
from vivace.formats.gguf import GGUFFile
from vivace.formats.model_directory import model_file
from vivace.formats.safetensors_index import INDEX_NAME, MAX_SHARDS

A = np.arange(6, dtype=np.float32).reshape(2, 3)
B = np.arange(4, dtype=np.float32)


def write_shards(directory: Path, weight_map: dict[str, str] | None = None) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    safetensors.numpy.save_file({"a": A}, directory / "part-1.safetensors")
    safetensors.numpy.save_file({"b": B}, directory / "part-2.safetensors")
    write_index(directory, weight_map or {"a": "part-1.safetensors", "b": "part-2.safetensors"})
    return directory


def write_index(directory: Path, weight_map: object) -> None:
    (directory / INDEX_NAME).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def test_single_file_directory_and_the_file_itself(tmp_path: Path) -> None:
    safetensors.numpy.save_file({"a": A, "b": B}, tmp_path / "model.safetensors", {"format": "np"})
    for path in (tmp_path, tmp_path / "model.safetensors", str(tmp_path)):
        with open_checkpoint(path) as checkpoint:
            assert set(checkpoint.names()) == {"a", "b"}
            assert checkpoint.metadata == {"format": "np"}
            assert "a" in checkpoint
            assert "c" not in checkpoint
            assert checkpoint.shape("a") == (2, 3)
            np.testing.assert_array_equal(dequantize(checkpoint.tensor("a")), A)


def test_shards(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(write_shards(tmp_path))
    assert checkpoint.names() == ("a", "b")
    np.testing.assert_array_equal(dequantize(checkpoint.tensor("a")), A)
    kept = checkpoint.tensor("b")
    checkpoint.close()
    np.testing.assert_array_equal(dequantize(kept), B)
    with pytest.raises(EngineError, match="closed"):
        checkpoint.tensor("a")


def test_gguf(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "llama")
    writer.add_tensor("a", A)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with open_checkpoint(tmp_path / "m.gguf") as checkpoint:
        assert checkpoint.names() == ("a",)
        assert checkpoint.metadata["general.architecture"] == "llama"
        np.testing.assert_array_equal(dequantize(checkpoint.tensor("a")), A)
    with pytest.raises(ModelFileError, match=r"m\.gguf"):
        open_checkpoint(tmp_path)


def test_a_part_of_a_split_gguf_is_refused(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "llama")
    writer.add_uint16("split.count", 3)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    with pytest.raises(ModelFileError, match="one of 3 parts"):
        open_checkpoint(tmp_path / "m.gguf")


def test_missing_tensor_is_named(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(write_shards(tmp_path))
    for ask in (checkpoint.tensor, checkpoint.shape):
        with pytest.raises(ModelFileError, match="no such tensor") as caught:
            ask("lm_head.weight")
        assert caught.value.field == "lm_head.weight"


def test_real_checkpoint_equals_the_official_reader(shared: Path) -> None:
    directory = shared / "weights" / "stories260K"
    expected = safetensors.numpy.load_file(directory / "model.safetensors")
    with open_checkpoint(directory) as checkpoint:
        assert set(checkpoint.names()) == set(expected)
        for name, weights in expected.items():
            np.testing.assert_array_equal(dequantize(checkpoint.tensor(name)), weights)


@pytest.mark.parametrize("shard", ["../part-1.safetensors", "/etc/passwd", "x/../../y", "..", "", "a\0b", "..\\y"])
def test_shards_outside_the_directory(tmp_path: Path, shard: str) -> None:
    directory = write_shards(tmp_path / "model")
    safetensors.numpy.save_file({"a": A}, tmp_path / "part-1.safetensors")
    write_index(directory, {"a": shard})
    with pytest.raises(ModelFileError, match="not a path inside"):
        open_checkpoint(directory)


@pytest.mark.parametrize("linked", ["model.safetensors", INDEX_NAME, "part-2.safetensors", "folder"])
def test_symbolic_links_out_of_the_directory(tmp_path: Path, linked: str) -> None:
    directory = write_shards(tmp_path / "model")
    outside = write_shards(tmp_path / "outside")
    if linked == "folder":
        (directory / "folder").symlink_to(outside)
        write_index(directory, {"a": "folder/part-1.safetensors"})
    else:
        (directory / linked).unlink(missing_ok=True)
        (directory / linked).symlink_to(outside / linked.replace("model.safetensors", "part-1.safetensors", 1))
    with pytest.raises(ModelFileError, match="out of the model directory"):
        open_checkpoint(directory)


def test_symbolic_links_inside_the_directory_and_to_it(tmp_path: Path) -> None:
    directory = write_shards(tmp_path / "model")
    (directory / "model.safetensors").symlink_to("part-1.safetensors")
    (tmp_path / "link").symlink_to(directory)
    assert open_checkpoint(tmp_path / "link").names() == ("a",)


def test_a_loop_of_links(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").symlink_to("model.safetensors")
    with pytest.raises(ModelFileError):
        open_checkpoint(tmp_path)


def test_hub_cache_snapshots_link_to_blobs(tmp_path: Path) -> None:
    repository = tmp_path / "hub" / "models--who--what"
    blobs = write_shards(repository / "blobs")
    snapshot = repository / "snapshots" / "0123abcd"
    snapshot.mkdir(parents=True)
    for name in (INDEX_NAME, "part-1.safetensors", "part-2.safetensors"):
        (snapshot / name).symlink_to(Path("../../blobs") / name)
    assert open_checkpoint(snapshot).names() == ("a", "b")
    other = write_shards(tmp_path / "hub" / "models--who--else" / "blobs")
    (snapshot / "part-2.safetensors").unlink()
    (snapshot / "part-2.safetensors").symlink_to(other / "part-2.safetensors")
    with pytest.raises(ModelFileError, match="out of the model directory"):
        open_checkpoint(snapshot)
    assert blobs.exists()


@pytest.mark.parametrize(
    ("weight_map", "words"),
    [
        (None, "must map"),
        ([], "must map"),
        ({}, "must map"),
        ({"a": 3}, "not a file name"),
        ({"a": "part-1.bin"}, "never unpickled"),
        ({"c": "part-1.safetensors"}, "lacks this tensor"),
        ({"a": "part-9.safetensors"}, "cannot be opened"),
        ({f"t{number}": f"s{number}.safetensors" for number in range(MAX_SHARDS + 1)}, "shards"),
    ],
)
def test_hostile_index(tmp_path: Path, weight_map: object, words: str) -> None:
    directory = write_shards(tmp_path)
    write_index(directory, weight_map)
    with pytest.raises(ModelFileError, match=words):
        open_checkpoint(directory)


def test_index_that_is_no_json(tmp_path: Path) -> None:
    (tmp_path / INDEX_NAME).write_text("{")
    with pytest.raises(ModelFileError, match="not valid JSON"):
        open_checkpoint(tmp_path)


class Bomb:
    """Leaves a file behind if anybody unpickles it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.pth", "model.ckpt", "model.safetensors"])
@pytest.mark.parametrize("writer", ["pickle", "torch"])
def test_pickle_is_never_unpickled(tmp_path: Path, name: str, writer: str) -> None:
    bomb = tmp_path / "bomb"
    if writer == "pickle":
        (tmp_path / name).write_bytes(pickle.dumps(Bomb(bomb)))
    else:
        torch.save({"a": torch.zeros(3), "bomb": Bomb(bomb)}, tmp_path / name)
    for path in (tmp_path, tmp_path / name):
        with pytest.raises(ModelFileError, match="never unpickled; convert the model to safetensors"):
            open_checkpoint(path)
    assert not bomb.exists()


def test_paths_that_are_no_files(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="neither"):
        open_checkpoint(tmp_path)
    with pytest.raises(ModelFileError, match="cannot be opened"):
        open_checkpoint(tmp_path / "none.gguf")
    (tmp_path / "folder.gguf").mkdir()
    with pytest.raises(ModelFileError, match="not a regular file"):
        GGUFFile.open(tmp_path / "folder.gguf")
    os.mkfifo(tmp_path / "pipe.gguf")
    with pytest.raises(ModelFileError, match="not a regular file"):
        open_checkpoint(tmp_path / "pipe.gguf")


@pytest.mark.parametrize("name", ["model.safetensors", "model.gguf"])
def test_git_lfs_pointers_are_named(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    with pytest.raises(ModelFileError, match="git lfs pull"):
        open_checkpoint(tmp_path / name)


def test_model_file_of_plain_names(tmp_path: Path) -> None:
    assert model_file(tmp_path, "config.json") == tmp_path / "config.json"
    assert model_file(tmp_path, "sub/config.json") == tmp_path / "sub" / "config.json"


def test_atomic_writer_replaces_or_leaves(tmp_path: Path) -> None:
    path = tmp_path / "f"
    with atomic_writer(path) as file:
        file.write(b"one")
        assert not path.exists()
    writer = atomic_writer(path)
    writer.__enter__().write(b"two")
    assert not writer.__exit__(KeyboardInterrupt, KeyboardInterrupt(), None)
    assert path.read_bytes() == b"one"
    assert list(tmp_path.iterdir()) == [path]
