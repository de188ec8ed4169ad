"""The model that is optimised: its shape, its tokenizer, what its files hold, and what tells it from others."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from vivace.core.config import EngineConfig
from vivace.core.errors import ConfigError
from vivace.core.speculation import SpeculativeConfig
from vivace.engine.loader import load_model_tokenizer
from vivace.engine.source import locate
from vivace.engine.tokenizer import Tokenizer
from vivace.evaluate.evaluation import model_identity
from vivace.formats.checkpoint import Checkpoint, open_checkpoint
from vivace.formats.fingerprint import weight_file_bytes
from vivace.models.gguf_config import spec_from_gguf
from vivace.models.hf_config import read_config_file, read_hf_config
from vivace.models.parameter_shapes import num_parameters
from vivace.models.parameters import FLOAT_ENCODINGS
from vivace.models.presets import preset_spec
from vivace.models.spec import ModelSpec
from vivace.optimize.prompts import PromptReader
from vivace.resources import EMBEDDED, EMBEDDED_DRAFT

MOST_CONTEXT = 4096  # where the user does not say: longer windows cost memory that few workloads fill


@dataclass(frozen=True, slots=True)
class Subject:
    """`is_float`: matrices are not quantised yet. `is_random`: dummy weights, whose text means nothing."""

    name: str
    config: EngineConfig
    spec: ModelSpec
    reader: PromptReader
    is_float: bool
    is_random: bool
    identity: str
    drafts: tuple[SpeculativeConfig, ...]

    @property
    def stored_as(self) -> str:
        """The quantization that comes nearest to a checkpoint's own, by its bits a weight."""
        if self.is_float:
            return "bf16"
        bits = 8 * weight_file_bytes(locate(self.config.model).path) / self.num_parameters
        return "int4" if bits < 6 else "int8" if bits < 12 else "bf16"

    @property
    def num_parameters(self) -> int:
        return num_parameters(self.spec)


def read_subject(config: EngineConfig, draft: str | None = None) -> Subject:
    """Reads descriptions, no weights. `draft` names a draft model. Errors as of `load_engine`."""
    is_random = config.load_format == "dummy"
    spec, is_float = _random_spec(config) if is_random else _stored_spec(config)
    length = config.max_model_len or min(spec.max_position_embeddings, MOST_CONTEXT)
    if length > spec.max_position_embeddings:
        raise ConfigError(
            f"max_model_len {length} exceeds the model's window of {spec.max_position_embeddings} tokens"
        )
    config = replace(config, max_model_len=length)
    tokenizer, is_own = _tokenizer(config, is_random)
    return Subject(
        name=config.model or config.config or EMBEDDED,
        config=config,
        spec=spec,
        reader=PromptReader(tokenizer, length, spec.vocab_size, is_own),
        is_float=is_float,
        is_random=is_random,
        identity=str(model_identity(config)["weights"]),
        drafts=_drafts(config, draft, is_random),
    )


def _random_spec(config: EngineConfig) -> tuple[ModelSpec, bool]:
    if config.config is None:
        return _stored_spec(config)[0], True
    path = Path(config.config)
    if path.is_dir():
        return read_hf_config(path), True
    return read_config_file(path) if path.suffix == ".json" else preset_spec(config.config), True


def _stored_spec(config: EngineConfig) -> tuple[ModelSpec, bool]:
    source = locate(config.model)
    with open_checkpoint(source.path) as checkpoint:
        spec = spec_from_gguf(checkpoint) if source.kind == "gguf" else read_hf_config(source.path)
        return spec, _is_float(checkpoint)


def _is_float(checkpoint: Checkpoint) -> bool:
    matrices = (checkpoint.tensor(name) for name in checkpoint.names() if len(checkpoint.shape(name)) == 2)
    return all(tensor.encoding in FLOAT_ENCODINGS for tensor in matrices)


def _tokenizer(config: EngineConfig, is_random: bool) -> tuple[Tokenizer, bool]:
    """Random weights without a tokenizer borrow the embedded model's."""
    if is_random and config.tokenizer is None and config.model is None:
        return load_model_tokenizer(EngineConfig()), False
    return load_model_tokenizer(config), True


def _drafts(config: EngineConfig, draft: str | None, is_random: bool) -> tuple[SpeculativeConfig, ...]:
    """What may guess: n-grams for everybody; a draft that was named; for its own model what the package has."""
    if is_random:
        return ()
    methods = [SpeculativeConfig("ngram")]
    if config.model in (None, EMBEDDED):
        methods.append(SpeculativeConfig("medusa"))
        draft = draft or EMBEDDED_DRAFT
    if draft is not None:
        locate(draft)  # a name that is none is refused now, not when its turn comes
        methods.append(SpeculativeConfig("draft_model", model=draft))
    return tuple(methods)
