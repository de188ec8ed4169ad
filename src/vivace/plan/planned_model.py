"""The model that is planned for: its shape from whatever names it, without reading a weight."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from vivace.core.errors import ConfigError
from vivace.engine.source import locate
from vivace.formats.checkpoint import Checkpoint, open_checkpoint
from vivace.models.gguf_config import spec_from_gguf
from vivace.models.hf_config import read_config_file, read_hf_config
from vivace.models.parameter_shapes import layer_shapes, model_shapes, num_parameters
from vivace.models.presets import preset_spec
from vivace.models.spec import ModelSpec
from vivace.models.weight_names import weight_names
from vivace.plan.weights import StoredEncodings


@dataclass(frozen=True, slots=True)
class PlannedModel:
    """`stored` are the encodings of a GGUF file's matrices, None where weights would be quantised at load."""

    name: str
    spec: ModelSpec
    stored: StoredEncodings | None = None

    @property
    def num_parameters(self) -> int:
        return num_parameters(self.spec)


def planned_model(name: str | None) -> PlannedModel:
    """A preset's name, a config.json, a model directory, a GGUF file, an embedded model or a hub name; None: the
    embedded model. What lies on disk wins over a preset of that name. Raises `ConfigError` or `ModelFileError`."""
    if name is None:
        return PlannedModel("embedded", read_hf_config(locate(None).path))
    path = Path(name).expanduser()
    if path.is_file() and path.suffix == ".json":
        return PlannedModel(str(path), read_config_file(path))
    if not path.exists() and "/" not in name and name not in ("embedded", "embedded-draft"):
        if path.suffix in (".json", ".gguf"):
            raise ConfigError(f"there is no file {name}")
        return PlannedModel(name, preset_spec(name))
    source = locate(None if name == "embedded" and not path.exists() else name)
    if source.kind == "directory":
        return PlannedModel(name, read_hf_config(source.path))
    with open_checkpoint(source.path) as checkpoint:
        spec = spec_from_gguf(checkpoint)
        return PlannedModel(name, spec, _stored(spec, checkpoint))


def _stored(spec: ModelSpec, checkpoint: Checkpoint) -> StoredEncodings:
    sources = weight_names(spec, frozenset(checkpoint.names()))
    encodings = {
        name: checkpoint.tensor(sources.model(name).name).encoding
        for name, shape in model_shapes(spec).items()
        if len(shape) == 2
    }
    for layer in range(spec.num_layers):
        for name, shape in layer_shapes(spec).items():
            if len(shape) == 2:
                encodings[f"layers.{layer}.{name}"] = checkpoint.tensor(
                    sources.layer(name, layer, shape[0]).name
                ).encoding
    return StoredEncodings(encodings)
