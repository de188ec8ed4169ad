"""The float checkpoint that is quantised: its parameters as float32, one at a time.

Shape letters: N outputs (rows), K inputs (columns), D hidden.
"""

from __future__ import annotations

import math
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from vivace.core.errors import ConfigError, ModelFileError, UnsupportedError
from vivace.engine.source import locate
from vivace.formats.checkpoint import open_safetensors
from vivace.formats.config_json import CONFIG_NAME, read_config_json
from vivace.formats.dequantize import dequantize
from vivace.formats.tensor import StoredTensor
from vivace.models.hf_config import read_hf_config
from vivace.models.parameter_shapes import layer_shapes, model_shapes
from vivace.models.weight_names import HFNames, WeightSource

FLOAT_ENCODINGS = frozenset({"f32", "f16", "bf16"})
BLOCKS_OF_LAYER = 32  # a block of rows takes at most this share of a layer in 16 bit: temporaries are some 6 blocks
MIN_ROWS, MAX_ROWS = 64, 1024  # of a block: fewer lose the speed of matrix products


class SourceModel:
    """A Hugging Face directory of float weights.

    Raises ConfigError for what is no such directory, UnsupportedError where it is quantised already.
    """

    def __init__(self, model: str | None) -> None:
        source = locate(model)
        if source.kind != "directory":
            raise ConfigError(f"{model} is a GGUF file: quantize needs the original folder of safetensors")
        self.directory: Path = source.path
        config = read_config_json(self.directory / CONFIG_NAME)
        packed = config.get("quantization_config")
        if packed is not None:
            method = packed.get("quant_method", "unknown") if isinstance(packed, dict) else "unknown"
            raise UnsupportedError(
                f"{self.directory} is quantised already (quant_method {method!r:.80}): give the float checkpoint"
            )
        self.spec = read_hf_config(self.directory)
        self.checkpoint = open_safetensors(self.directory)
        self.stored_names = frozenset(self.checkpoint.names())
        self.names = HFNames(self.spec, self.stored_names)
        self.layer_shapes = layer_shapes(self.spec)
        self.model_shapes = model_shapes(self.spec)

    def source(self, parameter: str, layer: int | None = None) -> WeightSource:
        """Where a parameter is stored."""
        if layer is None:
            return self.names.model(parameter)
        return self.names.layer(parameter, layer, self.layer_shapes[parameter][0])

    def stored(self, parameter: str, layer: int | None = None) -> StoredTensor:
        """A parameter as it is stored. Raises ModelFileError where it is missing, of another shape or no float."""
        source = self.source(parameter, layer)
        if source.name not in self.stored_names:
            raise ModelFileError(self.directory, "the model needs this tensor", field=source.name)
        stored = self.checkpoint.tensor(source.name)
        shape = (self.model_shapes if layer is None else self.layer_shapes)[parameter]
        if stored.shape != (source.num_stored_rows, *shape[1:]):
            reason = f"has shape {stored.shape}, the configuration asks for {(source.num_stored_rows, *shape[1:])}"
            raise ModelFileError(self.directory, reason, field=source.name)
        if stored.encoding not in FLOAT_ENCODINGS:
            raise ModelFileError(self.directory, f"is {stored.encoding}, not a float", field=source.name)
        return stored if source.rows is None or len(shape) == 1 else stored.select_rows(source.rows)

    def values(
        self, parameter: str, layer: int | None = None, rows: slice | NDArray[np.intp] | None = None
    ) -> NDArray[np.float32]:
        """A parameter's numbers (or some rows of them), float32, as the file has them (norms without Gemma's offset).

        Raises ModelFileError where one is not finite: nothing could be made of it.
        """
        stored = self.stored(parameter, layer)
        values = dequantize(stored if rows is None else stored.select_rows(rows))
        if not np.isfinite(values).all():
            raise ModelFileError(self.directory, "holds NaN or infinity", field=stored.name)
        return values

    def row_blocks(self, matrix: str) -> list[slice]:
        """Rows of a layer's matrix that are worked on at a time; every method treats rows apart."""
        num_rows, num_columns = self.layer_shapes[matrix]
        layer_weights = sum(math.prod(shape) for shape in self.layer_shapes.values())
        step = min(MAX_ROWS, max(MIN_ROWS, layer_weights // (2 * BLOCKS_OF_LAYER * num_columns)))
        return [slice(at, min(at + step, num_rows)) for at in range(0, num_rows, step)]

    def vectors(self, layer: int) -> dict[str, NDArray[np.float32]]:
        """Norms and biases of a layer, as the file has them."""
        return {name: self.values(name, layer) for name, shape in self.layer_shapes.items() if len(shape) == 1}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.checkpoint.close()
