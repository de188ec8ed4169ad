"""Loading: every shape is checked, quantisation touches what it should, dummies are sane in every encoding."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import gguf
import numpy as np
import pytest
from decoder_run import prompt_logits
from tiny_checkpoints import CASES_BY_NAME, Case, make_model, prompt_tokens, save

from vivace.backends.reference.backend import ReferenceBackend
from vivace.core.errors import ModelFileError
from vivace.formats.checkpoint import open_checkpoint
from vivace.formats.tensor import ENCODINGS, StoredTensor
from vivace.models.dummy import STANDARD_DEVIATION
from vivace.models.hf_config import read_hf_config
from vivace.models.parameters import Parameters, dummy_parameters, load_parameters
from vivace.models.spec import ModelSpec
from vivace.ops.program import Weight

WIDE = {"hidden_size": 64, "head_dim": 16, "intermediate_size": 96}


class RecordingBackend(ReferenceBackend):
    """Remembers the encoding of each matrix it packs."""

    def __init__(self) -> None:
        super().__init__()
        self.encodings: dict[str, str] = {}

    def pack(self, name: str, tensor: StoredTensor) -> Weight:
        self.encodings[name] = tensor.encoding
        return super().pack(name, tensor)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    save(make_model(CASES_BY_NAME["llama-gqa"]), tmp_path)
    return tmp_path


def load(directory: Path, spec: ModelSpec | None = None, **options) -> Parameters:
    with open_checkpoint(directory) as checkpoint:
        return load_parameters(spec or read_hf_config(directory), checkpoint, ReferenceBackend(), **options)


@pytest.mark.parametrize(
    ("changes", "tensor"),
    [
        ({"hidden_size": 50}, "model.embed_tokens.weight"),
        ({"vocab_size": 95}, "model.embed_tokens.weight"),
        ({"intermediate_size": 81}, "model.layers.0.mlp.gate_proj.weight"),
        ({"num_kv_heads": 1}, "model.layers.0.self_attn.k_proj.weight"),
        ({"num_layers": 5, "layer_windows": (None,) * 5}, "model.layers.4.input_layernorm.weight"),
        ({"qkv_bias": True}, "model.layers.0.self_attn.q_proj.bias"),
        ({"qk_norm": True}, "model.layers.0.self_attn.q_norm.weight"),
        ({"post_norms": True}, "model.layers.0.pre_feedforward_layernorm.weight"),
    ],
)
def test_tensors_that_do_not_fit_the_spec_are_named(directory: Path, changes: dict, tensor: str) -> None:
    spec = replace(read_hf_config(directory), **changes)
    with pytest.raises(ModelFileError) as caught:
        load(directory, spec)
    assert caught.value.field == tensor
    assert str(directory) in str(caught.value)


@pytest.mark.parametrize(
    ("name", "changes", "tensor"),
    [
        ("llama-biases", {"qkv_bias": False}, "model.layers.0.self_attn.q_proj.bias"),
        ("llama-biases", {"mlp_bias": False}, "model.layers.0.mlp.gate_proj.bias"),
        ("qwen3", {"qk_norm": False}, "model.layers.0.self_attn.q_norm.weight"),
    ],
)
def test_tensors_that_the_spec_would_ignore_are_named(tmp_path: Path, name: str, changes: dict, tensor: str) -> None:
    save(make_model(CASES_BY_NAME[name]), tmp_path)
    with pytest.raises(ModelFileError, match="does not ask for it") as caught:
        load(tmp_path, replace(read_hf_config(tmp_path), **changes))
    assert caught.value.field == tensor


def test_progress_reaches_the_total(directory: Path) -> None:
    calls: list[tuple[int, int]] = []
    load(directory, progress=lambda done, total: calls.append((done, total)))
    assert calls == [(index + 1, 39) for index in range(39)]  # 4 layers of 9, embedding, norm, lm_head


def test_size_counts_a_tied_table_once(tmp_path: Path) -> None:
    model = make_model(CASES_BY_NAME["llama-mqa-tied"])
    save(model, tmp_path)
    parameters = load(tmp_path)
    assert parameters.lm_head is parameters.token_embedding
    assert parameters.num_bytes == 4 * sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize(
    ("quantization", "kind"),
    [("int8", gguf.GGMLQuantizationType.Q8_0), ("int4", gguf.GGMLQuantizationType.Q4_0)],
)
@pytest.mark.parametrize("tied", [False, True])
def test_quantisation_rounds_every_product_as_gguf_does(
    tmp_path: Path, quantization: str, kind: gguf.GGMLQuantizationType, tied: bool
) -> None:
    """The same logits as from a checkpoint whose numbers the `gguf` package has rounded."""
    model = make_model(Case("wide", "qwen2", {**WIDE, "tie_word_embeddings": tied}))
    save(model, tmp_path / "full")
    for name, parameter in model.named_parameters():
        if parameter.ndim == 2 and (tied or name != "model.embed_tokens.weight"):
            rounded = gguf.dequantize(gguf.quantize(parameter.detach().numpy(), kind), kind)
            parameter.data.copy_(parameter.data.new_tensor(rounded))
    save(model, tmp_path / "rounded")
    tokens = prompt_tokens()
    logits = [
        prompt_logits(ReferenceBackend(), read_hf_config(path), load(path, quantization=how), tokens)
        for path, how in [(tmp_path / "full", quantization), (tmp_path / "rounded", None)]
    ]
    assert np.array_equal(logits[0], logits[1])


@pytest.mark.parametrize(("quantization", "encoding"), [("w8a8", "int8_channel"), ("llm_int8", "int8_outlier")])
@pytest.mark.parametrize("tied", [False, True])
def test_rows_of_int8_are_for_the_layers(tmp_path: Path, quantization: str, encoding: str, tied: bool) -> None:
    model = make_model(Case("wide", "qwen2", {**WIDE, "tie_word_embeddings": tied}))
    save(model, tmp_path)
    backend = RecordingBackend()
    with open_checkpoint(tmp_path) as checkpoint:
        parameters = load_parameters(read_hf_config(tmp_path), checkpoint, backend, quantization)
    table = {"token_embedding": "q8_0"} if tied else {"token_embedding": "f32", "lm_head": "q8_0"}
    assert {name: each for name, each in backend.encodings.items() if "." not in name} == table
    assert {each for name, each in backend.encodings.items() if "." in name} == {encoding}
    weights = model.model.layers[1].mlp.down_proj.weight.detach().numpy()
    steps = np.abs(weights).max(axis=1, keepdims=True) / 127.5
    rounded = np.rint(weights / steps).clip(-128, 127) * steps
    np.testing.assert_allclose(np.asarray(parameters.layers[1].down.data), rounded, rtol=0, atol=steps.max() * 1.001)
    assert np.isclose(np.asarray(parameters.layers[1].down.data), rounded, rtol=1e-5, atol=1e-9).mean() > 0.99
    assert np.isfinite(prompt_logits(backend, read_hf_config(tmp_path), parameters, prompt_tokens())).all()


def test_dummies_of_int8_rows_have_an_lm_head_by_groups(directory: Path) -> None:
    backend = RecordingBackend()
    dummy_parameters(replace(read_hf_config(directory), hidden_size=64), backend, "int8_channel")
    assert backend.encodings["lm_head"] == "q8_0"
    assert backend.encodings["layers.0.down"] == "int8_channel"


def test_widths_that_do_not_divide_stay_as_stored(directory: Path) -> None:
    backend = RecordingBackend()
    with open_checkpoint(directory) as checkpoint:
        load_parameters(read_hf_config(directory), checkpoint, backend, quantization="int4")
    assert set(backend.encodings.values()) == {"f32"}  # widths 48 and 80


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("name", ["gemma3", "phi3-longrope-long", "qwen2-window-tied"])
def test_dummies_run_in_every_encoding(encoding: str, name: str, tmp_path: Path) -> None:
    save(make_model(Case(name, CASES_BY_NAME[name].model_type, CASES_BY_NAME[name].fields)), tmp_path)
    spec = replace(read_hf_config(tmp_path), hidden_size=256, intermediate_size=512)
    backend = RecordingBackend()
    parameters = dummy_parameters(spec, backend, encoding, seed=4)
    assert backend.encodings["layers.0.q"] == encoding
    assert backend.encodings["layers.3.down"] == encoding
    values = np.asarray(parameters.layers[1].gate.data)
    assert abs(values.mean()) < 0.1 * STANDARD_DEVIATION
    assert 0.7 * STANDARD_DEVIATION < values.std() < 1.4 * STANDARD_DEVIATION
    logits = prompt_logits(backend, spec, parameters, prompt_tokens())
    assert np.isfinite(logits).all()
    assert logits.std() > 0


def test_dummies_of_awkward_width_take_a_wider_encoding(directory: Path) -> None:
    spec = replace(read_hf_config(directory), hidden_size=96)
    backend = RecordingBackend()
    dummy_parameters(spec, backend, "q4_k")
    assert backend.encodings["layers.0.gate"] == "q8_0"
    assert backend.encodings["layers.0.down"] == "bf16"


def test_dummies_depend_on_the_seed_alone(directory: Path) -> None:
    spec = read_hf_config(directory)
    first, again, other = (dummy_parameters(spec, ReferenceBackend(), "bf16", seed) for seed in (1, 1, 2))
    assert np.array_equal(first.lm_head.data, again.lm_head.data)
    assert not np.array_equal(first.lm_head.data, other.lm_head.data)


def test_rows_of_a_dummy_differ(directory: Path) -> None:
    spec = replace(read_hf_config(directory), hidden_size=256, vocab_size=1024)
    table = np.asarray(dummy_parameters(spec, ReferenceBackend(), "q4_k").lm_head.data)
    assert len(np.unique(table, axis=0)) == 1024
