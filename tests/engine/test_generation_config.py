"""Sampling defaults of a model's makers: read as transformers reads them, and in effect."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import transformers

from vivace.core.config import EngineConfig
from vivace.core.errors import ConfigError, ModelFileError
from vivace.core.sampling import SamplingParams
from vivace.core.sampling_defaults import SamplingDefaults
from vivace.engine.generation_config import GenerationConfig, load_generation_config
from vivace.engine.llm import LLM
from vivace.engine.source import ModelSource
from vivace.resources import embedded_model_path

PROMPT = "In the morning"
NAMES = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty")


def written(directory: Path, **values: Any) -> Path:
    path = directory / "generation_config.json"
    path.write_text(json.dumps(values))
    return path


def loaded(directory: Path, wanted: str = "auto", metadata: dict[str, Any] | None = None) -> GenerationConfig:
    kind = "directory" if metadata is None else "gguf"
    source = ModelSource(kind, directory)  # type: ignore[arg-type]
    return load_generation_config(EngineConfig(generation_config=wanted), source, metadata or {})


def llm(**options: Any) -> LLM:
    return LLM(num_threads=1, num_kv_blocks=64, max_num_seqs=2, **options)


def test_values_are_those_that_transformers_reads(tmp_path: Path) -> None:
    advice = {"temperature": 0.6, "top_k": 20, "top_p": 0.95, "min_p": 0.01, "repetition_penalty": 1.05}
    written(tmp_path, **advice, do_sample=True, eos_token_id=[2, 7])
    theirs = transformers.GenerationConfig.from_pretrained(tmp_path)
    ours = loaded(tmp_path)
    assert {name: getattr(ours.defaults, name) for name in NAMES} == {name: getattr(theirs, name) for name in NAMES}
    assert sorted(ours.eos_ids) == theirs.eos_token_id
    assert ours.choice.value == "temperature 0.6, top_k 20, top_p 0.95, min_p 0.01, repetition_penalty 1.05"


def test_neutral_where_nothing_is_advised_or_wanted(tmp_path: Path) -> None:
    assert loaded(tmp_path).defaults == SamplingDefaults()
    written(tmp_path, temperature=0.2, top_p=None, eos_token_id=5)
    assert loaded(tmp_path).defaults == SamplingDefaults(temperature=0.2)
    assert loaded(tmp_path, "vllm").defaults == SamplingDefaults()
    assert loaded(tmp_path, "vllm").eos_ids == {5}


def test_a_directory_and_a_file_can_be_named(tmp_path: Path) -> None:
    path = written(tmp_path, top_k=3)
    for named in (tmp_path, path):
        assert loaded(Path("/nowhere"), str(named)).defaults == SamplingDefaults(top_k=3)
    with pytest.raises(ConfigError, match="auto, vllm, a directory or a file"):
        loaded(tmp_path, str(tmp_path / "absent"))


def test_metadata_of_a_gguf_file(tmp_path: Path) -> None:
    metadata = {
        "general.sampling.temp": 0.699999988079071,
        "general.sampling.top_k": 20,
        "general.sampling.penalty_repeat": 1.0499999523162842,
        "general.sampling.mirostat": 2,
    }
    expected = SamplingDefaults(temperature=0.7, top_k=20, repetition_penalty=1.05)
    assert loaded(tmp_path, metadata=metadata).defaults == expected
    assert loaded(tmp_path, "vllm", metadata).defaults == SamplingDefaults()


@pytest.mark.parametrize(
    "values",
    [
        {"temperature": "hot"},
        {"temperature": -1},
        {"temperature": float("nan")},
        {"top_p": 2},
        {"top_k": 1.5},
        {"top_k": True},
        {"repetition_penalty": 0},
        {"min_p": [0.1]},
        {"max_new_tokens": 0},
        {"max_new_tokens": 2**40},
        {"eos_token_id": "2"},
        {"eos_token_id": [1, None]},
    ],
)
def test_values_that_no_request_may_have_are_refused(tmp_path: Path, values: dict[str, Any]) -> None:
    written(tmp_path, **values)
    with pytest.raises(ModelFileError):
        loaded(tmp_path)


def test_the_embedded_model_advises_what_its_file_says() -> None:
    theirs = transformers.GenerationConfig.from_pretrained(embedded_model_path())
    params = llm().default_params
    assert (params.temperature, params.top_p) == (theirs.temperature, theirs.top_p)
    assert llm(generation_config="vllm").default_params == SamplingParams()


def test_defaults_are_in_effect_and_explicit_values_win(tmp_path: Path) -> None:
    """Temperature 0 as the default makes every unasked answer the greedy one; an end token of the file ends it."""
    greedy = llm().generate(PROMPT, SamplingParams(temperature=0.0, max_tokens=6, ignore_eos=True))[0].outputs[0]
    end = greedy.token_ids[3]
    assert end not in greedy.token_ids[:3]
    written(tmp_path, temperature=0.0, max_new_tokens=6, eos_token_id=end)
    advised = llm(generation_config=str(tmp_path))
    output = advised.generate(PROMPT)[0].outputs[0]
    assert (output.token_ids[:3], output.finish_reason) == (greedy.token_ids[:3], "stop")
    hot = SamplingParams(temperature=5.0, seed=3, max_tokens=6, ignore_eos=True)
    assert (
        advised.generate(PROMPT, hot)[0].outputs[0].token_ids == llm().generate(PROMPT, hot)[0].outputs[0].token_ids
    )
