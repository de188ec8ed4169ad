"""What a model's makers say of generating with it: sampling parameters that they advise, tokens that end a text.

generation_config.json of a Hugging Face directory, or the keys `general.sampling.*` of a GGUF file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vivace.core.config import Choice, EngineConfig
from vivace.core.errors import ConfigError, ModelFileError, RequestError
from vivace.core.sampling_defaults import SamplingDefaults
from vivace.engine.source import ModelSource
from vivace.formats.config_json import read_config_json

FILE_NAME = "generation_config.json"
# The file's names, and ours. `do_sample` is not read, as vLLM does not: a temperature in the file is meant.
JSON_FIELDS = {
    "temperature": "temperature",
    "top_k": "top_k",
    "top_p": "top_p",
    "min_p": "min_p",
    "repetition_penalty": "repetition_penalty",
    "max_new_tokens": "max_tokens",
}
GGUF_FIELDS = {
    "general.sampling.temp": "temperature",
    "general.sampling.top_k": "top_k",
    "general.sampling.top_p": "top_p",
    "general.sampling.min_p": "min_p",
    "general.sampling.penalty_repeat": "repetition_penalty",
}
_F32_DIGITS = 7  # GGUF holds float32: 0.95 comes as 0.949999988079071


@dataclass(frozen=True, slots=True)
class GenerationConfig:
    """`choice` is what `vivace doctor` and the server's log say of it."""

    defaults: SamplingDefaults = field(default_factory=SamplingDefaults)
    eos_ids: frozenset[int] = frozenset()
    choice: Choice = Choice("sampling_defaults", "neutral", "the model's files advise nothing")  # noqa: RUF009


def load_generation_config(
    config: EngineConfig, source: ModelSource | None, metadata: Mapping[str, Any]
) -> GenerationConfig:
    """What `--generation-config` asks for. `source` is None for random weights; `metadata` is a GGUF file's.

    "auto" takes what lies beside the weights, "vllm" neutral values (the file's end tokens count even so), anything
    else is a directory or a file to read instead. Raises `ConfigError` where that is not there and `ModelFileError`
    for values that no request may have.
    """
    wanted = config.generation_config
    if wanted not in ("auto", "vllm"):
        path = Path(wanted).expanduser()
        path = path / FILE_NAME if path.is_dir() else path
        if not path.is_file():
            raise ConfigError(f"generation_config must be auto, vllm, a directory or a file; there is no {path}")
        return _from_json(path, keeps_advice=True)
    if source is not None and source.kind == "gguf":
        advice = {name: metadata[key] for key, name in GGUF_FIELDS.items() if key in metadata}
        if wanted == "vllm" or not advice:
            return GenerationConfig(choice=_neutral(wanted))
        return _advised(advice, frozenset(), source.path, "general.sampling of the GGUF file")
    if source is None or not (source.path / FILE_NAME).is_file():
        return GenerationConfig(choice=_neutral(wanted))
    return _from_json(source.path / FILE_NAME, keeps_advice=wanted == "auto")


def _neutral(wanted: str) -> Choice:
    reason = "as asked" if wanted == "vllm" else "the model's files advise nothing"
    return Choice("sampling_defaults", str(SamplingDefaults()), reason)


def _from_json(path: Path, *, keeps_advice: bool) -> GenerationConfig:
    values = read_config_json(path)
    eos_ids = _eos_ids(values.get("eos_token_id"), path)
    if not keeps_advice:
        return GenerationConfig(eos_ids=eos_ids, choice=_neutral("vllm"))
    advice = {name: values[key] for key, name in JSON_FIELDS.items() if values.get(key) is not None}
    return _advised(advice, eos_ids, path, f"{FILE_NAME}; a request's own values win")


def _advised(advice: Mapping[str, Any], eos_ids: frozenset[int], path: Path, reason: str) -> GenerationConfig:
    rounded: dict[str, Any] = {
        name: float(f"{value:.{_F32_DIGITS}g}") if isinstance(value, float) else value
        for name, value in advice.items()
    }
    try:
        defaults = SamplingDefaults(**rounded)
    except RequestError as error:
        raise ModelFileError(path, f"{error}; --generation-config vllm leaves it out", field=error.param) from None
    return GenerationConfig(defaults, eos_ids, Choice("sampling_defaults", str(defaults), reason))


def _eos_ids(value: object, path: Path) -> frozenset[int]:
    ids = value if isinstance(value, list) else [] if value is None else [value]
    for token_id in ids:
        if isinstance(token_id, bool) or not isinstance(token_id, int):
            raise ModelFileError(path, f"{token_id!r} is no token id", field="eos_token_id")
    return frozenset(ids)
