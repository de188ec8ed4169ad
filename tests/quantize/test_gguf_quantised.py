"""Quantised GGUF files of real models: what they hold, what they cost, what is refused."""

from __future__ import annotations

import shutil
from collections import Counter
from itertools import pairwise
from pathlib import Path

import gguf
import numpy as np
import pytest
from decoder_run import prompt_logits

from vivace.backends.cpu.backend import CpuBackend
from vivace.core.errors import ConfigError, ModelFileError, UnsupportedError
from vivace.engine.tokenizer import load_tokenizer, tokenizer_from_gguf
from vivace.formats.checkpoint import open_checkpoint, open_safetensors
from vivace.formats.dequantize import dequantize
from vivace.formats.gguf import GGUFFile
from vivace.models.gguf_config import spec_from_gguf
from vivace.models.hf_config import read_hf_config
from vivace.models.parameters import load_parameters
from vivace.quantize.gguf_export import export_gguf, gguf_importance
from vivace.resources import embedded_model_path

PROSE = "The old man walked down to the river, where the boats lay, and said that he had never seen such a night. "
# Mean KL divergence to the float32 model, in nats: some twice what was measured on the model that ships.
BOUNDS = {"BF16": 1e-4, "Q8_0": 1e-3, "Q6_K": 2e-3, "Q5_K_M": 5e-3, "Q4_K_M": 0.015, "Q4_0": 0.02}


def random_importance(directory: Path, seed: int) -> dict[str, np.ndarray]:
    """Of every matrix of the layers, by its name in the directory."""
    generator = np.random.default_rng(seed)
    with open_safetensors(directory) as checkpoint:
        widths = {name: checkpoint.shape(name) for name in checkpoint.names() if ".layers." in name}
    return {
        name: np.exp(generator.standard_normal(shape[1])).astype(np.float32)
        for name, shape in widths.items()
        if len(shape) == 2
    }


def log_probabilities(path: Path, prompts: list[list[int]], *, exact: bool = False) -> np.ndarray:
    """[all tokens, V], float64; `exact`: float32 weights whatever the file holds."""
    backend = CpuBackend(num_threads=1)
    with open_checkpoint(path) as checkpoint:
        spec = read_hf_config(path) if path.is_dir() else spec_from_gguf(checkpoint)
        parameters = load_parameters(spec, checkpoint, backend, "f32" if exact else None)
    rows = [prompt_logits(backend, spec, parameters, np.array(prompt)) for prompt in prompts]
    logits = np.concatenate(rows).astype(np.float64)
    logits -= logits.max(axis=1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))


def divergence(reference: np.ndarray, other: np.ndarray) -> float:
    return float((np.exp(reference) * (reference - other)).sum(axis=1).mean())


@pytest.fixture(scope="module")
def embedded() -> Path:
    return embedded_model_path()


@pytest.fixture(scope="module")
def prompts(embedded: Path) -> list[list[int]]:
    tokens = load_tokenizer(embedded).encode(PROSE * 12)
    return [tokens[:120], tokens[60:180]]


def test_smaller_files_cost_more_but_little(embedded: Path, prompts: list[list[int]], tmp_path: Path) -> None:
    reference = log_probabilities(embedded, prompts, exact=True)
    sizes = []
    for encoding, bound in BOUNDS.items():
        path = tmp_path / f"{encoding}.gguf"
        export_gguf(embedded, path, encoding, random_importance(embedded, 1))
        sizes.append(path.stat().st_size)
        assert divergence(reference, log_probabilities(path, prompts)) < bound, encoding
    assert all(large > small for large, small in pairwise(sizes))


def test_a_real_checkpoint_of_awkward_widths(shared: Path, tmp_path: Path) -> None:
    """Rows of 64 fall back to blocks of 32, rows of 172 to float16."""
    directory = shared / "weights" / "stories260K"
    prompt = load_tokenizer(directory).encode((shared / "eval" / "tinystories_sample.txt").read_text()[:600])[:120]
    reference = log_probabilities(directory, [prompt], exact=True)
    for encoding, narrow in (("Q4_K_M", "Q5_0"), ("Q5_K_M", "Q5_1"), ("Q6_K", "Q8_0")):
        path = tmp_path / f"{encoding}.gguf"
        export_gguf(directory, path, encoding)
        types = {tensor.name: tensor.tensor_type.name for tensor in gguf.GGUFReader(path).tensors}
        assert types["blk.0.attn_q.weight"] == narrow
        assert types["blk.0.ffn_down.weight"] == "F16"
        assert types["token_embd.weight"] == "Q8_0"
        assert divergence(reference, log_probabilities(path, [prompt])) < 0.02


def test_types_metadata_and_tokenizer(embedded: Path, tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    done: list[tuple[int, int]] = []
    importance = random_importance(embedded, 2)
    export_gguf(
        embedded, path, "q4_k_m", importance, dataset="docs.txt", num_chunks=9, progress=lambda *at: done.append(at)
    )
    reader = gguf.GGUFReader(path)
    spec = read_hf_config(embedded)
    types = Counter(tensor.tensor_type.name for tensor in reader.tensors)
    assert types["Q6_K"] == 5  # the table, and attn_v and ffn_down of two layers of four
    assert types["Q4_K"] == 7 * spec.num_layers - 4
    contents = {key: field.contents() for key, field in reader.fields.items()}
    assert contents["general.file_type"] == gguf.LlamaFileType.MOSTLY_Q4_K_M
    assert contents["general.quantization_version"] == gguf.GGML_QUANT_VERSION
    assert contents["quantize.imatrix.dataset"] == "docs.txt"
    assert contents["quantize.imatrix.entries_count"] == len(importance)
    assert contents["quantize.imatrix.chunks_count"] == 9
    ours, theirs = tokenizer_from_gguf(GGUFFile.open(path).metadata), load_tokenizer(embedded)
    assert ours.encode(PROSE + " naïve 日本 😀\n\n\t12345") == theirs.encode(PROSE + " naïve 日本 😀\n\n\t12345")
    assert [total for _, total in done] == [done[-1][0]] * len(reader.tensors)
    assert [at for at, _ in done] == sorted({at for at, _ in done})


def test_importance_lowers_the_error_of_the_inputs_that_matter(embedded: Path, tmp_path: Path) -> None:
    importance = random_importance(embedded, 3)
    export_gguf(embedded, tmp_path / "plain.gguf", "Q4_K_M")
    export_gguf(embedded, tmp_path / "weighed.gguf", "Q4_K_M", importance)
    export_gguf(embedded, tmp_path / "exact.gguf", "F32")
    files = {name: GGUFFile.open(tmp_path / f"{name}.gguf").tensors for name in ("plain", "weighed", "exact")}
    for name, values in gguf_importance(embedded, importance).items():
        exact, plain, weighed = (dequantize(files[file][name]) for file in ("exact", "plain", "weighed"))
        assert (values * (weighed - exact) ** 2).sum() < 0.95 * (values * (plain - exact) ** 2).sum(), name


def test_names_of_either_kind_give_the_same_bytes(embedded: Path, tmp_path: Path) -> None:
    importance = random_importance(embedded, 4)
    importance["lm_head.weight"] = np.linspace(0.1, 2, 256, dtype=np.float32)  # the table's: embeddings are tied
    by_gguf = gguf_importance(embedded, importance)
    assert by_gguf["blk.2.attn_q.weight"] is importance["model.layers.2.self_attn.q_proj.weight"]
    assert by_gguf["token_embd.weight"] is importance["lm_head.weight"]
    export_gguf(embedded, tmp_path / "one.gguf", "Q5_K_M", importance, num_threads=1)
    export_gguf(embedded, tmp_path / "two.gguf", "Q5_K_M", by_gguf, num_threads=3)
    assert (tmp_path / "one.gguf").read_bytes() == (tmp_path / "two.gguf").read_bytes()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda _: {"model.layers.99.mlp.up_proj.weight": np.ones(256, np.float32)}, "belongs to this model"),
        (lambda all_: all_ | {"model.layers.3.mlp.down_proj.weight": np.ones(256, np.float32)}, "512 inputs"),
        (lambda all_: all_ | {"model.layers.3.mlp.up_proj.weight": np.full(256, np.nan, np.float32)}, "not finite"),
    ],
)
def test_an_importance_of_another_model_is_refused_before_anything_is_written(
    change, message: str, embedded: Path, tmp_path: Path
) -> None:
    done: list[tuple[int, int]] = []
    with pytest.raises(ConfigError, match=message):
        export_gguf(
            embedded,
            tmp_path / "out.gguf",
            "Q4_K_M",
            change(random_importance(embedded, 5)),
            progress=lambda *at: done.append(at),
        )
    assert not done
    assert list(tmp_path.iterdir()) == []


def test_weights_that_blocks_cannot_hold_leave_no_file(embedded: Path, tmp_path: Path) -> None:
    directory = tmp_path / "model"
    shutil.copytree(embedded, directory)
    weights = directory / "model.safetensors"
    broken = bytearray(weights.read_bytes())
    middle = len(broken) // 4 * 2  # of the file, which is some matrix
    broken[middle : middle + 2] = np.array([0x7FC0], np.uint16).tobytes()  # a bfloat16 NaN
    weights.write_bytes(broken)
    for encoding in ("Q4_K_M", "Q4_0", "F16"):
        with pytest.raises(UnsupportedError, match="NaN"):
            export_gguf(directory, tmp_path / "out.gguf", encoding)
    weights.write_bytes(broken[: len(broken) // 2])
    with pytest.raises(ModelFileError):
        export_gguf(directory, tmp_path / "out.gguf", "Q4_K_M")
    assert list(tmp_path.iterdir()) == [directory]


def test_an_interrupted_export_leaves_no_file(embedded: Path, tmp_path: Path) -> None:
    def stop(done: int, total: int) -> None:
        if done > total // 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export_gguf(embedded, tmp_path / "out.gguf", "Q4_K_M", progress=stop)
    assert list(tmp_path.iterdir()) == []
