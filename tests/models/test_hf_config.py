"""config.json in both of transformers' forms, and hostile ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tiny_checkpoints import CASES, Case, make_model

from vivace.core.errors import ModelFileError
from vivace.formats.config_json import MAX_CONFIG_BYTES
from vivace.models.hf_config import read_hf_config, spec_from_hf_config
from vivace.models.presets import PRESETS
from vivace.models.rope import LinearScaling, LongRopeScaling, RopeSpec

LLAMA: dict[str, Any] = {
    "model_type": "llama",
    "vocab_size": 96,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "rms_norm_eps": 1e-5,
}
LONG = {"type": "longrope", "short_factor": [1.0] * 6, "long_factor": [2.0] * 6}


def version_4_form(config: dict[str, Any]) -> dict[str, Any]:
    """The same configuration as transformers 4 wrote it: `rope_theta` beside `rope_scaling`."""
    config = dict(config)
    rope = config.pop("rope_parameters")
    if "full_attention" in rope:
        config["rope_local_base_freq"] = rope["sliding_attention"]["rope_theta"]
        rope = rope["full_attention"]
    rope = dict(rope)
    config["rope_theta"] = rope.pop("rope_theta")
    if "partial_rotary_factor" in rope:
        config["partial_rotary_factor"] = rope.pop("partial_rotary_factor")
    config["rope_scaling"] = None if rope["rope_type"] == "default" else rope
    config.pop("layer_types", None)
    return config


@pytest.mark.parametrize("case", CASES, ids=str)
def test_both_forms_give_the_same_spec(case: Case) -> None:
    config = json.loads(make_model(case).config.to_json_string(use_diff=False))
    if "sliding_window_pattern" in case.fields:
        config["sliding_window_pattern"] = case.fields["sliding_window_pattern"]
    assert spec_from_hf_config(version_4_form(config)) == spec_from_hf_config(config)


def test_gemma_3_with_images_is_read_as_its_text_model() -> None:
    """As google/gemma-3-4b-it publishes it: what equals the class's default is left out."""
    config = {
        "model_type": "gemma3",
        "eos_token_id": [1, 106],
        "text_config": {
            "hidden_size": 2560,
            "intermediate_size": 10240,
            "model_type": "gemma3_text",
            "num_hidden_layers": 34,
            "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
            "sliding_window": 1024,
        },
        "vision_config": {"hidden_size": 1152},
    }
    spec = spec_from_hf_config(config)
    assert (spec.num_heads, spec.num_kv_heads, spec.head_dim, spec.vocab_size) == (8, 4, 256, 262_208)
    assert spec.rope == RopeSpec(1_000_000.0, 256, LinearScaling(8.0))
    assert spec.sliding_rope == RopeSpec(10_000.0, 256)
    assert spec.layer_windows[:7] == (1024,) * 5 + (None, 1024)
    assert spec.eos_token_ids == (1, 106)
    assert spec.tied_embeddings


def test_gemma_1_says_gelu_and_means_the_tanh_form() -> None:
    assert spec_from_hf_config(LLAMA | {"model_type": "gemma", "hidden_act": "gelu"}).activation == "gelu_tanh"
    assert spec_from_hf_config(LLAMA | {"hidden_act": "gelu"}).activation == "gelu"


def test_code_of_a_known_type_is_ignored() -> None:
    config = LLAMA | {"auto_map": {"AutoModelForCausalLM": "modeling_evil.Evil"}}
    assert spec_from_hf_config(config) == spec_from_hf_config(LLAMA)


def test_code_of_an_unknown_type_is_refused_and_said_so() -> None:
    config = LLAMA | {"model_type": "evil", "auto_map": {"AutoModelForCausalLM": "modeling_evil.Evil"}}
    with pytest.raises(
        ModelFileError, match=r"unknown 'evil'; its own code \(auto_map\) is never imported; known are"
    ):
        spec_from_hf_config(config)


def test_longrope_chooses_its_factors_by_the_longest_context() -> None:
    config = LLAMA | {"model_type": "phi3", "rope_scaling": LONG, "original_max_position_embeddings": 32}
    rope = spec_from_hf_config(config).rope
    assert isinstance(rope.scaling, LongRopeScaling)
    assert not rope.is_long(32)
    assert rope.is_long(33)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"model_type": None}, "model_type"),
        ({"model_type": 7}, "model_type"),
        ({"model_type": "gpt2"}, "model_type"),
        ({"model_type": "gemma3", "text_config": LLAMA | {"hidden_size": 0}}, "text_config.hidden_size"),
        ({"model_type": "gemma3", "text_config": []}, "text_config"),
        ({"hidden_size": 2**31}, "hidden_size"),
        ({"hidden_size": None}, "hidden_size"),
        ({"hidden_size": "48"}, "hidden_size"),
        ({"hidden_size": True}, "hidden_size"),
        ({"hidden_size": 48.0}, "hidden_size"),
        ({"hidden_size": -48}, "hidden_size"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers"),
        ({"num_hidden_layers": 0}, "num_hidden_layers"),
        ({"vocab_size": 0}, "vocab_size"),
        ({"vocab_size": 10**400}, "vocab_size"),
        ({"intermediate_size": None}, "intermediate_size"),
        ({"num_attention_heads": 5}, "num_attention_heads"),
        ({"num_attention_heads": 48}, None),  # one column a head cannot turn
        ({"num_key_value_heads": 3}, None),
        ({"num_key_value_heads": 8}, None),
        ({"head_dim": 0}, "head_dim"),
        ({"head_dim": 7}, None),
        ({"rms_norm_eps": 0}, "rms_norm_eps"),
        ({"rms_norm_eps": float("nan")}, "rms_norm_eps"),
        ({"rms_norm_eps": "small"}, "rms_norm_eps"),
        ({"hidden_act": "xielu"}, "hidden_act"),
        ({"hidden_act": ["silu"]}, "hidden_act"),
        ({"tie_word_embeddings": "yes"}, "tie_word_embeddings"),
        ({"eos_token_id": "2"}, "eos_token_id"),
        ({"eos_token_id": [2, -1]}, "eos_token_id"),
        ({"rope_theta": float("nan")}, "rope_theta"),
        ({"rope_theta": float("inf")}, "rope_theta"),
        ({"rope_theta": 10**400}, "rope_theta"),
        ({"rope_theta": 0}, "rope_theta"),
        ({"rope_theta": 0.5}, None),
        ({"rope_scaling": "linear"}, "rope_scaling"),
        ({"rope_scaling": {"type": "alibi"}}, "rope_scaling.rope_type"),
        ({"rope_scaling": {"type": "linear"}}, "rope_scaling.factor"),
        ({"rope_scaling": {"type": "linear", "factor": float("nan")}}, "rope_scaling.factor"),
        ({"rope_scaling": {"type": "linear", "factor": 1e-320}}, None),
        ({"rope_scaling": {"type": "llama3", "factor": 8.0}}, "rope_scaling.low_freq_factor"),
        ({"rope_scaling": {"type": "yarn", "factor": 8.0, "beta_fast": 1e308}}, None),
        ({"rope_scaling": LONG | {"long_factor": [1.0]}}, None),
        ({"rope_scaling": LONG | {"long_factor": [0.0] * 6}}, None),
        ({"rope_scaling": LONG | {"short_factor": ["1"] * 6}}, "rope_scaling.short_factor"),
        ({"rope_scaling": LONG | {"short_factor": 3}}, "rope_scaling.short_factor"),
        ({"partial_rotary_factor": 1e308}, "partial_rotary_factor"),
        ({"partial_rotary_factor": 0.01}, None),
        ({"model_type": "mistral", "sliding_window": -5}, "sliding_window"),
        ({"model_type": "gemma2", "sliding_window": 4, "layer_types": ["odd", "odd"]}, "layer_types"),
        ({"model_type": "gemma2", "sliding_window": 4, "layer_types": ["full_attention"]}, "layer_types"),
        ({"model_type": "gemma2", "sliding_window": 4, "layer_types": [[], {}]}, "layer_types"),
        ({"model_type": "gemma2", "attn_logit_softcapping": -1}, "attn_logit_softcapping"),
        ({"model_type": "gemma2", "query_pre_attn_scalar": 0}, "query_pre_attn_scalar"),
        ({"quantization_config": 4}, "quantization_config"),
        ({"model_type": "gemma", "use_bidirectional_attention": True}, "use_bidirectional_attention"),
    ],
)
def test_hostile_values(changes: dict[str, Any], field: str | None) -> None:
    with pytest.raises(ModelFileError) as caught:
        spec_from_hf_config(LLAMA | changes, "some/config.json")
    assert caught.value.field == field
    assert "some/config.json" in str(caught.value)


@pytest.mark.parametrize("key", ["model_type", "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers"])
def test_missing_keys(key: str) -> None:
    config = {name: value for name, value in LLAMA.items() if name != key}
    with pytest.raises(ModelFileError, match="missing") as caught:
        spec_from_hf_config(config)
    assert caught.value.field == key


@pytest.mark.parametrize("text", ["", "[]", "null", "{", '{"a": ' * 100_000, "\udcff"])
def test_files_that_are_no_configuration(text: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(ModelFileError, match=r"config\.json"):
        read_hf_config(tmp_path)


def test_missing_and_oversized_files(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="needs its config"):
        read_hf_config(tmp_path)
    (tmp_path / "config.json").write_bytes(b" " * (MAX_CONFIG_BYTES + 1))
    with pytest.raises(ModelFileError, match="larger than"):
        read_hf_config(tmp_path)


def test_defaults_are_those_of_transformers() -> None:
    """A file that leaves a key out means what transformers' class says."""
    spec = spec_from_hf_config({key: value for key, value in LLAMA.items() if key != "num_key_value_heads"})
    assert spec.num_kv_heads == 4
    config = {key: value for key, value in PRESETS["mistral-7b"].items() if key != "sliding_window"}
    assert spec_from_hf_config(config).layer_windows == (4096,) * 32
    assert spec_from_hf_config(config | {"sliding_window": None}).layer_windows == (None,) * 32
