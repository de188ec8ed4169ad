"""Quantised safetensors checkpoints, seen as if they held `….weight` tensors like any other."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from vivace.core.errors import ModelFileError, UnsupportedError
from vivace.formats.dequantize import dequantize
from vivace.formats.fp8_rows import Fp8Matrix, stored_fp8
from vivace.formats.module_tensors import ModuleTensors
from vivace.formats.quantization_scheme import (
    FP8_TYPE,
    WEIGHT_TYPES,
    QuantizationScheme,
    read_quantization_scheme,
    read_side_file,
)
from vivace.formats.quantize_rtn import encode
from vivace.formats.quantized_matrix import QuantizedMatrix
from vivace.formats.stored_matrix import Activations, stored_matrix
from vivace.formats.tensor import StoredTensor
from vivace.formats.tensor_table import TensorSource, TensorTable

_PACKED = ("qweight", "weight_packed")


def with_quantized_weights(directory: Path, tables: Mapping[str, TensorTable]) -> Mapping[str, TensorSource]:
    """`tables` as they are; if config.json has a `quantization_config`, with `….weight` in place of the tensors that
    hold a quantised matrix. Everything else passes through: norms, biases, modules left in 16 bit.

    Raises ModelFileError for a scheme that cannot be read and for parts of a matrix without its codes.
    """
    scheme = read_quantization_scheme(directory)
    if scheme is None:
        packed = next((name for name in tables if name.endswith(_PACKED)), None)
        if packed is None:
            return tables
        scheme = read_side_file(directory)
        if scheme is None:
            raise ModelFileError(directory, "packed weights, but no quantization_config says how", field=packed)
    quantized = QuantizedTensors(directory, tables, scheme)
    sources: dict[str, TensorSource] = {}
    for name, table in tables.items():
        module, _, part = name.rpartition(".")
        if module not in quantized.modules:
            if part in scheme.parts and part != "weight":
                reason = f"belongs to a quantised matrix, but {' or '.join(scheme.marks)} is missing beside it"
                raise ModelFileError(directory, reason, field=name)
            sources[name] = table
        elif part == quantized.modules[module]:
            sources[f"{module}.weight"] = quantized
        elif part == "weight":
            raise ModelFileError(directory, "stands beside packed weights of the same module", field=name)
        elif part not in scheme.parts:
            sources[name] = table
    return sources


class QuantizedTensors:
    """The quantised matrices of a checkpoint as StoredTensors, unpacked one at a time and never kept."""

    def __init__(self, directory: Path, tables: Mapping[str, TensorTable], scheme: QuantizationScheme) -> None:
        self.directory = directory
        self.tables = tables
        self.scheme = scheme
        self.holds_fp8 = any(table.entry(name).type_name == FP8_TYPE for name, table in tables.items())
        self.modules: dict[str, str] = {}  # each with the last name of the tensor that holds its codes
        for name, table in tables.items():
            module, _, part = name.rpartition(".")
            if part in scheme.marks and (part != "weight" or table.entry(name).type_name in WEIGHT_TYPES):
                self.modules.setdefault(module, part)

    def __getitem__(self, name: str) -> StoredTensor:
        module = name.removesuffix(".weight")
        matrix, activations = self.matrix(name), self.scheme.activations(module)
        if isinstance(matrix, Fp8Matrix):
            return _stored_floats(name, matrix, activations)
        try:
            return stored_matrix(name, matrix, activations)
        except UnsupportedError as error:
            raise ModelFileError(self.directory, str(error), field=name) from error

    def matrix(self, name: str) -> QuantizedMatrix | Fp8Matrix:
        """Codes, scales and zero points of `….weight`. Raises ModelFileError naming the tensor at fault."""
        return self.scheme.matrix(self._tensors(name))

    def shape(self, name: str) -> tuple[int, ...]:
        return self.scheme.shape(self._tensors(name))

    def size(self, name: str) -> tuple[str | None, int]:
        """No encoding before it is unpacked; the bytes of its codes."""
        module = name.removesuffix(".weight")
        names = [f"{module}.{part}" for part in self.scheme.parts]
        return None, max((self.tables[one].size(one)[1] for one in names if one in self.tables), default=0)

    def close(self) -> None:
        for table in self.tables.values():
            table.close()

    def _tensors(self, name: str) -> ModuleTensors:
        module = name.removesuffix(".weight")
        names = {part: f"{module}.{part}" for part in self.scheme.parts}
        arrays = {part: self.tables[full].array(full) for part, full in names.items() if full in self.tables}
        return ModuleTensors(self.directory, module, arrays)


def _stored_floats(name: str, matrix: Fp8Matrix, activations: Activations) -> StoredTensor:
    """`fp8_channel` rounds activations too: where the checkpoint leaves them alone, weights become bfloat16."""
    stored = stored_fp8(name, matrix)
    return stored if activations == "token" else encode(dequantize(stored), "bf16", name)
