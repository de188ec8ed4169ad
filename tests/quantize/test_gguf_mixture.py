"""The mixtures, against what llama.cpp's quantiser prints for models of known shapes."""

from __future__ import annotations

from dataclasses import replace

import pytest
from gguf import LlamaFileType
from tiny_checkpoints import CASES_BY_NAME, make_model, save

from vivace.core.errors import ConfigError
from vivace.models.hf_config import read_hf_config
from vivace.models.spec import ModelSpec
from vivace.quantize.gguf_mixture import FILE_TYPES, Mixture

# Layers of a 32-layer Llama whose attn_v and ffn_down are Q6_K in published Q4_K_M files.
MORE_BITS_OF_32 = [0, 1, 2, 3, 6, 9, 12, 15, 18, 21, 24, 27, 28, 29, 30, 31]


@pytest.fixture(scope="module")
def spec(tmp_path_factory) -> ModelSpec:
    directory = tmp_path_factory.mktemp("model")
    save(make_model(CASES_BY_NAME["qwen2"]), directory)
    return replace(read_hf_config(directory), family="llama", num_layers=32, layer_windows=(None,) * 32)


def encodings(mixture: Mixture, name: str, width: int = 4096) -> list[str]:
    layers = range(mixture.spec.num_layers)
    return [mixture.encoding(f"blk.{layer}.{name}.weight", width, layer) for layer in layers]


def test_numbers_are_those_of_llama_cpp() -> None:
    names = {"F32": "ALL_F32", "F16": "MOSTLY_F16", "BF16": "MOSTLY_BF16"}
    for name, number in FILE_TYPES.items():
        assert LlamaFileType[names.get(name, f"MOSTLY_{name}")] == number


@pytest.mark.parametrize(("file_type", "main"), [("Q4_K_M", "q4_k"), ("q5_k_m", "q5_k")])
def test_k_mixtures_spend_more_on_values_and_the_way_down(spec: ModelSpec, file_type: str, main: str) -> None:
    mixture = Mixture(file_type, spec, has_importance=True)
    expected = ["q6_k" if layer in MORE_BITS_OF_32 else main for layer in range(32)]
    assert encodings(mixture, "attn_v") == encodings(mixture, "ffn_down") == expected
    for name in ("attn_q", "attn_k", "attn_output", "ffn_gate", "ffn_up"):
        assert encodings(mixture, name) == [main] * 32
    assert set(encodings(mixture, "attn_qkv")) == {"q5_k" if main == "q4_k" else "q6_k"}


@pytest.mark.parametrize(
    ("file_type", "table", "output"),
    [("Q4_K_M", "q4_k", "q6_k"), ("Q5_K_M", "q5_k", "q6_k"), ("Q6_K", "q6_k", "q6_k"), ("Q4_0", "q4_0", "q6_k"),
     ("Q8_0", "q8_0", "q8_0"), ("BF16", "bf16", "bf16"), ("F32", "f32", "f32")],
)  # fmt: skip
def test_the_output_gets_six_bits_and_so_does_a_tied_table(
    spec: ModelSpec, file_type: str, table: str, output: str
) -> None:
    untied = Mixture(file_type, replace(spec, tied_embeddings=False), has_importance=False)
    assert untied.encoding("output.weight", 4096) == output
    assert untied.encoding("token_embd.weight", 4096) == table
    tied = Mixture(file_type, replace(spec, tied_embeddings=True), has_importance=False)
    assert tied.encoding("token_embd.weight", 4096) == output


def test_narrow_rows_get_simple_blocks_or_float16(spec: ModelSpec) -> None:
    mixture = Mixture("Q4_K_M", spec, has_importance=False)
    assert encodings(mixture, "ffn_down", 864)[:5] == ["q8_0"] * 4 + ["q5_0"]
    assert encodings(mixture, "ffn_up", 172) == ["f16"] * 32
    assert mixture.encoding("output.weight", 864) == "q8_0"
    assert encodings(Mixture("Q5_K_M", spec, has_importance=False), "ffn_up", 864) == ["q5_1"] * 32
    assert encodings(Mixture("Q6_K", spec, has_importance=False), "ffn_up", 864) == ["q8_0"] * 32
    assert Mixture("Q4_0", spec, has_importance=False).encoding("output.weight", 864) == "q8_0"


def test_q4_0_guards_the_first_layers_where_there_is_an_importance(spec: ModelSpec) -> None:
    assert encodings(Mixture("Q4_0", spec, has_importance=False), "ffn_down") == ["q4_0"] * 32
    assert encodings(Mixture("Q4_0", spec, has_importance=True), "ffn_down") == ["q4_1"] * 4 + ["q4_0"] * 28


def test_shared_values_of_the_largest_llama_get_five_bits(spec: ModelSpec) -> None:
    large = replace(spec, num_layers=80, layer_windows=(None,) * 80)
    assert set(encodings(Mixture("Q4_K_M", large, has_importance=False), "attn_v")) == {"q5_k", "q6_k"}


def test_other_types_are_refused_by_name(spec: ModelSpec) -> None:
    with pytest.raises(ConfigError, match=r"'IQ2_XS' cannot be written; known are .*Q4_K_M"):
        Mixture("IQ2_XS", spec, has_importance=True)
