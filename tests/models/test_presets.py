"""Presets have the parameter counts that the hub shows for these models."""

import pytest

from vivace.core.errors import ConfigError
from vivace.models.parameter_shapes import num_parameters
from vivace.models.presets import PRESETS, preset_spec

PUBLISHED_PARAMETERS = {
    "llama-3.2-1b": 1_235_814_400,
    "llama-3.2-3b": 3_212_749_824,
    "llama-3.1-8b": 8_030_261_248,
    "qwen2.5-0.5b": 494_032_768,
    "qwen2.5-1.5b": 1_543_714_304,
    "qwen3-0.6b": 596_049_920,
    "gemma-2-2b": 2_614_341_888,
    "smollm2-135m": 134_515_008,
    "tinyllama-1.1b": 1_100_048_384,
    "mistral-7b": 7_241_732_096,
    "phi-3-mini": 3_821_079_552,
}


def test_every_preset_is_listed() -> None:
    assert set(PRESETS) == set(PUBLISHED_PARAMETERS)


@pytest.mark.parametrize("name", PRESETS)
def test_parameter_count(name: str) -> None:
    assert num_parameters(preset_spec(name)) == PUBLISHED_PARAMETERS[name]


def test_unknown_preset_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"did you mean 'llama-3\.2-1b'"):
        preset_spec("llama-3.2-1B")
