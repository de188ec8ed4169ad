"""Whole runs: the same seed gives the same bytes, also after a kill at any point; nothing half looks whole."""

from __future__ import annotations

import random
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from killed_run import options_of
from numpy_model import TEXT, tiny_model

from vivace.core.errors import ConfigError, ModelFileError
from vivace.engine.llm import LLM
from vivace.formats.checkpoint import open_safetensors
from vivace.formats.dequantize import dequantize
from vivace.formats.safetensors_writer import write_safetensors
from vivace.quantize.options import quantize_options
from vivace.quantize.quantization import QuantizationResult, quantize_model
from vivace.quantize.run_directory import RunDirectory

SEED = 20_261_122
Wholes = dict[str, dict[str, bytes]]
METHODS = ("rtn", "gptq", "awq", "mixed")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tiny_model(tmp_path_factory.mktemp("model") / "model")
    (directory / "text.txt").write_text(TEXT)
    return directory


def quantized(model: Path, output: Path, method: str, seed: int = 0) -> QuantizationResult:
    options = quantize_options(method, **options_of(method, seed))
    return quantize_model(str(model), output, options, calibration=str(model / "text.txt"))


def contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


@pytest.fixture(scope="module")
def whole(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Wholes:
    """The files of runs that nothing disturbed."""
    room = tmp_path_factory.mktemp("whole")
    results = {method: quantized(model, room / method, method) for method in METHODS}
    assert not list(room.glob("*.partial"))
    return {method: contents(result.output) for method, result in results.items()}


@pytest.mark.parametrize("method", METHODS)
def test_the_same_seed_gives_the_same_bytes(model: Path, whole: Wholes, method: str, tmp_path: Path) -> None:
    assert contents(quantized(model, tmp_path / "again", method).output) == whole[method]
    if method == "gptq":
        assert contents(quantized(model, tmp_path / "other", method, seed=1).output) != whole[method]


@pytest.mark.parametrize("method", METHODS)
def test_a_killed_run_goes_on_to_the_same_bytes(model: Path, whole: Wholes, method: str, tmp_path: Path) -> None:
    """Killed three times at syncs drawn by the seed; each run takes up what the one before left."""
    rng, output = random.Random(f"{SEED} {method}"), tmp_path / "out"
    for _ in range(3):
        arguments = [str(model), str(output), method, str(rng.randint(2, 12))]
        script = Path(__file__).with_name("killed_run.py")
        done = subprocess.run(
            [sys.executable, str(script), *arguments], capture_output=True, timeout=120, check=False
        )
        assert done.returncode in (0, -9), done.stderr.decode()
        if done.returncode == 0:
            break
        assert not output.exists()
        with pytest.raises((ConfigError, ModelFileError)):
            LLM(str(tmp_path / "out.partial"))
    if not output.exists():
        quantized(model, output, method)
    assert contents(output) == whole[method]
    assert not (tmp_path / "out.partial").exists()


def test_only_missing_layers_are_made_again(model: Path, tmp_path: Path) -> None:
    """Stopped at every layer in turn: what is done is not done again, and the bytes are the same."""
    made: list[tuple[str, int]] = []

    class StopError(Exception):
        pass

    def stop_after(stage: str, done: int, total: int) -> None:
        made.append((stage, done))
        if 0 < done < total and len(made) == 2:
            raise StopError

    options = quantize_options("gptq", **options_of("gptq"))
    output, data = tmp_path / "out", str(model / "text.txt")
    for layer in range(1, 4):
        made.clear()
        with pytest.raises(StopError):
            quantize_model(str(model), output, options, calibration=data, progress=stop_after)
        assert made == [("layers", layer - 1), ("layers", layer)]
    quantize_model(str(model), output, options, calibration=data)
    assert contents(output) == contents(quantized(model, tmp_path / "whole", "gptq").output)


def test_a_damaged_shard_is_made_again(model: Path, whole: Wholes, tmp_path: Path) -> None:
    class StopError(Exception):
        pass

    def stop(stage: str, done: int, total: int) -> None:
        if done == total - 1 and stage == "layers":
            raise StopError

    options = quantize_options("gptq", **options_of("gptq"))
    with pytest.raises(StopError):
        quantize_model(str(model), tmp_path / "out", options, calibration=str(model / "text.txt"), progress=stop)
    shard = next((tmp_path / "out.partial" / "output").glob("model-00002-*"))
    data = bytearray(shard.read_bytes())
    data[-1] ^= 1
    shard.write_bytes(data)
    assert contents(quantized(model, tmp_path / "out", "gptq").output) == whole["gptq"]


def test_what_is_in_the_way_is_left_alone(model: Path, tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    with pytest.raises(ConfigError, match="exists already"):
        quantized(model, tmp_path / "taken", "rtn")
    foreign = tmp_path / "out.partial"
    foreign.mkdir()
    (foreign / "mine.txt").write_text("mine")
    with pytest.raises(ConfigError, match="holds no unfinished run"):
        quantized(model, tmp_path / "out", "rtn")
    assert [path.name for path in foreign.iterdir()] == ["mine.txt"]
    RunDirectory(tmp_path / "other", {"bits": 4})
    with pytest.raises(ConfigError, match="unfinished run of another request"):
        RunDirectory(tmp_path / "other", {"bits": 8})


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("manifest.json", "{}"),
        ("manifest.json", "[7]"),
        ("manifest.json", '[{"shard": "model-00001-of-00003.safetensors"}]'),
        (
            "manifest.json",
            '[{"shard": 1, "shard_sha256": "", "hidden": "", "hidden_sha256": "", "tensor_names": []}]',
        ),
        ("bits.json", "{}"),
        ("bits.json", "[4, 8]"),
        ("bits.json", '["4"]'),
    ],
)
def test_a_damaged_note_of_a_run_is_named(model: Path, tmp_path: Path, name: str, text: str) -> None:
    class StopError(Exception):
        pass

    def stop(*_: object) -> None:
        raise StopError

    options, data = quantize_options("mixed", **options_of("mixed")), str(model / "text.txt")
    with pytest.raises(StopError):
        quantize_model(str(model), tmp_path / "out", options, calibration=data, progress=stop)
    (tmp_path / "out.partial" / name).write_text(text)
    with pytest.raises(ConfigError, match=f"{name} is damaged .*: delete .*out.partial to begin anew"):
        quantize_model(str(model), tmp_path / "out", options, calibration=data)


def test_what_cannot_be_quantised(model: Path, tmp_path: Path) -> None:
    quantize_model(str(model), tmp_path / "once", quantize_options("w8a8"))
    with pytest.raises(ConfigError, match="quantised already"):
        quantize_model(str(tmp_path / "once"), tmp_path / "twice", quantize_options("w8a8"))
    with pytest.raises(ConfigError, match="neither a directory"):
        quantize_model(str(tmp_path / "nowhere"), tmp_path / "out", quantize_options("rtn"))
    with pytest.raises(ConfigError, match="names no layer"):
        quantize_model(str(model), tmp_path / "out", quantize_options("w8a8", skip_layers=("9",)))
    with pytest.raises(ConfigError, match="no such file"):
        quantize_model(
            str(model), tmp_path / "out", quantize_options("gptq", format="dense"), calibration="nothing.txt"
        )
    with pytest.raises(ConfigError, match=r"is 48 x 48: awq files need .* whole groups of 32"):
        quantize_model(str(model), tmp_path / "out", quantize_options("awq", group_size=32))
    with pytest.raises(ConfigError, match=r"groups are computed in whole 32 inputs; take w8a8, or leave it float"):
        quantize_model(str(model), tmp_path / "out", quantize_options("rtn"))
    assert {path.name for path in tmp_path.iterdir()} == {"once"}


def test_a_model_that_overflows_is_refused(model: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(model, broken)
    with open_safetensors(model) as checkpoint:
        tensors = {name: dequantize(checkpoint.tensor(name)) for name in checkpoint.names()}
    for name in ("gate", "up", "down"):  # each in the reach of scales, their product not in that of floats
        tensors[f"model.layers.2.mlp.{name}_proj.weight"] *= np.float32(1e4 if name == "gate" else 1e5)
    tensors["model.layers.2.post_attention_layernorm.weight"] *= np.float32(1e20)
    write_safetensors(broken / "model.safetensors", tensors)
    with pytest.raises(ConfigError, match="layer 2 computes NaN or infinity"):
        quantized(broken, tmp_path / "out", "gptq")
    tensors["model.layers.1.mlp.up_proj.weight"][0, 0] = np.nan
    write_safetensors(broken / "model.safetensors", tensors)
    with pytest.raises(ModelFileError, match=r"layers\.1\.mlp\.up_proj.*NaN or infinity"):
        quantized(broken, tmp_path / "other", "rtn")
