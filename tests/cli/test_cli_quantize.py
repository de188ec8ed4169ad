"""`vivace quantize`: files, a report of before and after, and one line for what cannot be."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import gguf
import numpy as np
import pytest
from command_run import Vivace

TEXT = "Once upon a time there was a little dog. He liked to play in the park with his friend Tim. " * 12


def test_the_report_compares_before_and_after(vivace: Vivace, stories: str, tmp_path: Path) -> None:
    text, out = tmp_path / "text.txt", tmp_path / "out"
    text.write_text(TEXT)
    options = ("--method", "w8a8", "-o", str(out), "--report", "--report-text", str(text))
    done = vivace("quantize", stories, *options, "--json")
    assert done.code == 0, done.stderr
    record = json.loads(done.stdout)
    report = record["report"]
    assert report["before"]["file_bytes"] == record["source_bytes"] > record["output_bytes"]
    assert report["after"]["perplexity"] == pytest.approx(report["before"]["perplexity"], rel=0.05)
    assert 0 < report["kl_divergence_mean"] < 0.05
    assert all(
        report[side][f"{name}_tokens_per_s"] > 0 for side in ("before", "after") for name in ("decode", "prefill")
    )
    evaluated = vivace("evaluate", str(out), "--dataset", str(text), "--reference", stories, "--json")
    assert json.loads(evaluated.stdout)["kl_divergence_mean"] == report["kl_divergence_mean"]


def test_the_embedded_model_with_words(vivace: Vivace, tmp_path: Path) -> None:
    text, out = tmp_path / "text.txt", tmp_path / "out"
    text.write_text(TEXT)
    done = vivace("quantize", "--method", "rtn", "-o", str(out), "--report", "--report-text", str(text))
    assert done.code == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith(f"{out}: 6.8")
    assert lines[-1].startswith("You gain files 2.0")
    assert "you lose" in lines[-1]
    assert "calibrated on no data" in lines[-1]


def test_an_importance_matrix_is_saved_and_read(vivace: Vivace, stories: str, tmp_path: Path) -> None:
    """From the file the same weights come as from the calibration that it keeps; another type needs none."""
    text, matrix = tmp_path / "text.txt", tmp_path / "imatrix.gguf"
    text.write_text(TEXT)

    def made(name: str, *options: str) -> dict[str, gguf.ReaderTensor]:
        done = vivace("quantize", stories, "--method", "gguf", *options, "-o", str(tmp_path / name))
        assert done.code == 0, done.stderr
        reader = gguf.GGUFReader(tmp_path / name)
        assert reader.fields["quantize.imatrix.dataset"].contents() == str(text)
        assert ("quantize.imatrix.file" in reader.fields) == ("--imatrix" in options)
        return {tensor.name: tensor for tensor in reader.tensors}

    small = ("--gguf-type", "Q4_0")
    calibrated = made("calibrated.gguf", *small, "--calibration", str(text), "--save-imatrix", str(matrix))
    read = made("read.gguf", *small, "--imatrix", str(matrix))
    assert calibrated.keys() == read.keys()
    for name, tensor in calibrated.items():
        same = np.count_nonzero(tensor.data == read[name].data)
        assert same >= 0.999 * tensor.data.size, name  # means were sums on the way: their last bits differ
    made("other.gguf", "--gguf-type", "q5_k_m", "--imatrix", str(matrix))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--method", "Q4_K_M"), "--method gguf --gguf-type Q4_K_M"),
        (("--method", "rtn", "--imatrix", "a.dat"), "--imatrix does nothing for rtn: it is read by gguf"),
        (("--method", "gguf", "--gguf-type", "f16", "--save-imatrix", "a"), "--save-imatrix does nothing for F16"),
        (("--method", "gguf", "--imatrix", "a", "--num-samples", "4"), "leave --num-samples out"),
        (("--method", "hqq"), "--method 'hqq' is not known"),
        (("--method", "gptq", "--calibration", "nowhere.txt"), "cannot read nowhere.txt: no such file"),
        (("--method", "rtn", "--alpha", "0.5"), "--alpha does nothing for rtn"),
        (("--method", "rtn", "--skip-layers", "lm_tail"), "'lm_tail' names no layer"),
        (("--method", "rtn", "--report", "--report-text", "nowhere.txt"), "cannot read nowhere.txt"),
    ],
)
def test_bad_input_is_one_line(vivace: Vivace, tmp_path: Path, options: tuple[str, ...], message: str) -> None:
    done = vivace("quantize", *options, "-o", str(tmp_path / "out"))
    assert done.code == 2
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_an_importance_matrix_that_cannot_be(vivace: Vivace, stories: str, tmp_path: Path) -> None:
    output = tmp_path / "model.gguf"
    (tmp_path / "bad.dat").write_text("this is a text, and no importance matrix")
    foreign = dat_of("blk.0.attn_q.weight", 3)
    (tmp_path / "foreign.dat").write_bytes(foreign)
    (tmp_path / "unnamed.dat").write_bytes(dat_of("no.such.weight", 3))
    for options, message in (
        (("--imatrix", "nowhere.gguf"), "nowhere.gguf: cannot be read: No such file"),
        (("--imatrix", str(tmp_path / "bad.dat")), "not an importance matrix"),
        (("--imatrix", str(tmp_path / "foreign.dat")), "has 64 inputs, its importance (3,)"),
        (("--imatrix", str(tmp_path / "unnamed.dat")), "no name of the importance belongs to this model"),
        (("--save-imatrix", str(tmp_path / "no" / "a.gguf")), "in a folder that is there"),
        (("--save-imatrix", str(output)), "name two files"),
    ):
        done = vivace("quantize", stories, "--method", "gguf", *options, "-o", str(output))
        assert (done.code, message in done.stderr) == (2, True), done.stderr
        assert not output.exists()


def dat_of(name: str, num_inputs: int) -> bytes:
    """llama.cpp's older importance file, of one matrix."""
    return struct.pack(
        f"<ii{len(name)}sii{num_inputs}f", 1, len(name), name.encode(), 1, num_inputs, *[1.0] * num_inputs
    )
