"""Packed weights of an earlier start: the same logits without the checkpoint's matrices, and never damaged ones."""

from __future__ import annotations

import logging
import os
import shutil
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from vivace.backends.cpu.backend import CpuBackend
from vivace.core.config import Choice, EngineConfig
from vivace.core.sampling import SamplingParams
from vivace.engine import packed_cache
from vivace.engine.llm import LLM
from vivace.engine.packed_cache import PackedCache
from vivace.formats import packed_file
from vivace.formats.checkpoint import Checkpoint
from vivace.formats.quantize_rtn import encode
from vivace.formats.tensor import StoredTensor

PARAMS = SamplingParams(max_tokens=8, temperature=0.0, logprobs=5)
OPTIONS = {"max_model_len": 64, "max_num_seqs": 2, "num_threads": 2}


@pytest.fixture
def model(tmp_path: Path, shared: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small model, a cache folder of its own, and no model too small for it."""
    monkeypatch.setenv("VIVACE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(packed_cache, "MIN_WEIGHT_BYTES", 0)
    return Path(
        shutil.copytree(shared / "weights" / "stories260K", tmp_path / "model", copy_function=shutil.copyfile)
    )


def load(model: Path, **options: object) -> LLM:
    """A started engine, once the file is there."""
    llm = LLM(str(model), **{**OPTIONS, **options})
    wait_for_writer()
    return llm


def wait_for_writer() -> None:
    for thread in threading.enumerate():
        if thread.name == packed_cache.WRITER_NAME:
            thread.join(60)
            assert not thread.is_alive()


def packed_choice(llm: LLM) -> Choice:
    return next(one for one in llm.loaded.choices if one.name == "packed_cache")


def answer(llm: LLM) -> object:
    """Tokens and log probabilities, to the bit."""
    return [(one.token_ids, one.logprobs) for one in llm.generate(["Once upon a time"], PARAMS)[0].outputs]


def packed_files(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "cache" / "packed").iterdir())


@pytest.mark.parametrize("quantization", ["auto", "bf16", "int8"])
def test_the_second_start_reads_no_matrix(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch, quantization: str
) -> None:
    first = load(model, quantization=quantization)
    assert packed_choice(first).value == "written"
    (file,) = packed_files(tmp_path)
    written = file.stat().st_ino
    read: list[tuple[int, ...]] = []
    original = Checkpoint.tensor

    def noted(self: Checkpoint, name: str) -> StoredTensor:
        tensor = original(self, name)
        read.append(tensor.shape)
        return tensor

    monkeypatch.setattr(Checkpoint, "tensor", noted)
    second = load(model, quantization=quantization)
    assert packed_choice(second).value == "read"
    assert {len(shape) for shape in read} == {1}
    assert second.loaded.weight_bytes == first.loaded.weight_bytes
    assert answer(second) == answer(first)
    assert file.stat().st_ino == written


def test_every_damage_is_packed_again(tmp_path: Path, model: Path) -> None:
    expected = answer(load(model))
    (file,) = packed_files(tmp_path)
    content = file.read_bytes()
    damages = {
        "flipped": content[:-100] + bytes([content[-100] ^ 1]) + content[-99:],
        "in the middle": content[: len(content) // 2] + b"damage" + content[len(content) // 2 + 6 :],
        "manifest": content[:60] + b"!" + content[61:],
        "truncated": content[: len(content) // 2],
        "empty": b"",
        "longer head": b"x" + content,
    }
    for name, damaged in damages.items():
        file.write_bytes(damaged)
        llm = load(model)
        choice = packed_choice(llm)
        assert choice.value == "written", name
        assert "what was there is gone" in choice.reason
        assert answer(llm) == expected
        assert file.read_bytes() == content


def test_what_decides_the_bytes_decides_the_file(tmp_path: Path, model: Path) -> None:
    load(model)
    load(model, quantization="bf16")
    assert len(packed_files(tmp_path)) == 2
    os.utime(model / "model.safetensors", (1_000_000_000, 1_000_000_000))
    assert packed_choice(load(model)).value == "written"
    config = (model / "config.json").read_bytes()
    (model / "config.json").write_bytes(config + b"\n")
    assert packed_choice(load(model)).value == "written"
    moved = model.rename(model.with_name("moved"))
    assert packed_choice(load(moved)).value == "written"
    assert packed_choice(load(moved)).value == "read"


def test_a_model_that_changes_while_it_loads_is_not_kept(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prints = iter(["before", "after"])
    monkeypatch.setattr(packed_cache, "files_fingerprint", lambda _: next(prints))
    choice = packed_choice(load(model))
    assert (choice.value, choice.reason) == ("off", "the model's files changed while they were read")
    assert not (tmp_path / "cache").exists()


def test_a_folder_that_cannot_be_written_is_said_once_and_nothing_else(
    tmp_path: Path, model: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "cache").write_bytes(b"a file where the folder should be")
    with caplog.at_level(logging.WARNING):
        llm = load(model)
    assert packed_choice(llm).value == "failed"
    (record,) = caplog.records
    assert "--no-packed-cache" in record.getMessage()
    assert answer(llm)


def test_a_full_disk(tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(packed_cache, "make_room", full)
    choice = packed_choice(load(model))
    assert choice.value == "failed"
    assert "No space left" in choice.reason
    assert not list(tmp_path.glob("cache/packed/*"))


def test_a_disk_that_fills_up_while_it_is_written(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(packed_file._Chunks, "flush", full)
    with caplog.at_level(logging.WARNING):
        assert answer(load(model))
    assert "No space left" in caplog.text
    assert not packed_files(tmp_path)


def test_two_starts_at_once(tmp_path: Path, model: Path) -> None:
    answers: list[object] = []

    def start() -> None:
        answers.append(answer(load(model)))

    threads = [threading.Thread(target=start) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    llm = load(model)
    assert packed_choice(llm).value == "read"
    assert answers == [answer(llm)] * 3
    assert len(packed_files(tmp_path)) == 1


def test_not_asked_for_not_worth_it_or_not_packed(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert packed_choice(load(model, packed_cache=False)) == Choice("packed_cache", "off", "as asked")
    assert packed_choice(load(model, backend="reference", num_threads=None)).value == "off"
    monkeypatch.undo()
    monkeypatch.setenv("VIVACE_CACHE", str(tmp_path / "cache"))
    assert "small" in packed_choice(load(model)).reason
    assert not (tmp_path / "cache").exists()


def test_pipes_and_dangling_links_beside_a_model(model: Path) -> None:
    os.mkfifo(model / "pipe.safetensors")
    (model / "gone.safetensors").symlink_to("nowhere")
    assert packed_choice(load(model)).value == "written"


def test_an_order_of_inputs_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIVACE_CACHE", str(tmp_path / "cache"))
    source = tmp_path / "model.safetensors"
    source.write_bytes(b"what it is made of")
    backend = CpuBackend(1)
    storage = backend.packed_storage
    order = np.random.default_rng(2).permutation(64).astype(np.int32)
    stored = encode(np.random.default_rng(1).standard_normal((32, 64), np.float32), "q8_0", "w")
    written = PackedCache.open(EngineConfig(), source, storage)
    written.keep(backend.pack("plain", stored))
    written.keep(backend.pack("sorted", replace(stored, input_order=order)))
    assert written.finish().value == "written"
    wait_for_writer()
    read = PackedCache.open(EngineConfig(), source, storage)
    plain, by_order = read.matrix("plain", (32, 64)), read.matrix("sorted", (32, 64))
    assert plain is not None
    assert by_order is not None
    assert storage.order(plain) is None
    np.testing.assert_array_equal(storage.order(by_order), order)
    np.testing.assert_array_equal(storage.data(by_order), storage.data(plain))
    assert read.matrix("plain", (64, 32)) is None
    assert read.finish().value == "read"
