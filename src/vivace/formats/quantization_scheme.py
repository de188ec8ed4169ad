"""What a checkpoint says of its quantised weights, and which reader understands it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from vivace.formats.awq import read_awq_scheme
from vivace.formats.bitsandbytes import read_llm_int8_scheme
from vivace.formats.compressed_tensors import read_compressed_tensors_scheme
from vivace.formats.config_json import CONFIG_NAME, read_config_json
from vivace.formats.fp8_rows import Fp8Matrix
from vivace.formats.gptq import read_gptq_scheme
from vivace.formats.model_directory import model_file
from vivace.formats.module_tensors import ModuleTensors
from vivace.formats.quantized_matrix import QuantizedMatrix
from vivace.formats.scheme_fields import SchemeFields
from vivace.formats.stored_matrix import Activations


class QuantizationScheme(Protocol):
    """How one checkpoint stores its quantised matrices.

    A module is quantised if it has a tensor whose last name is in `marks` (`weight`: of a type in WEIGHT_TYPES);
    `parts` are all last names that such a module may have and that nothing else has.
    """

    @property
    def marks(self) -> tuple[str, ...]: ...

    @property
    def parts(self) -> tuple[str, ...]: ...

    def shape(self, tensors: ModuleTensors) -> tuple[int, int]: ...

    def matrix(self, tensors: ModuleTensors) -> QuantizedMatrix | Fp8Matrix: ...

    def activations(self, module: str) -> Activations: ...


READERS: dict[str, Callable[[SchemeFields], QuantizationScheme]] = {
    "gptq": read_gptq_scheme,
    "awq": read_awq_scheme,
    "compressed-tensors": read_compressed_tensors_scheme,
    "bitsandbytes": read_llm_int8_scheme,
}
# Files of older tools beside config.json, and whose they are.
SIDE_FILES = {"quantize_config.json": "gptq", "quant_config.json": "awq"}
FP8_TYPE = "F8_E4M3"
WEIGHT_TYPES = ("I8", FP8_TYPE)
_KEYS = ("quantization_config", "compression_config")


def read_quantization_scheme(directory: Path) -> QuantizationScheme | None:
    """None if config.json has no `quantization_config`, or is not there. Raises ModelFileError naming file and key
    for a method that cannot be read.
    """
    path = model_file(directory, CONFIG_NAME)
    if not path.exists():
        return None
    config = SchemeFields(read_config_json(path), path, "")
    for fields in (config, config.section("text_config")):
        for key in _KEYS:
            if fields is not None and (section := fields.section(key)) is not None:
                return _scheme(section, _method(section))
    return None


def read_side_file(directory: Path) -> QuantizationScheme | None:
    """The same from quantize_config.json (AutoGPTQ) or quant_config.json (AutoAWQ)."""
    for name, method in SIDE_FILES.items():
        path = model_file(directory, name)
        if path.exists():
            fields = SchemeFields(read_config_json(path), path, "")
            return _scheme(fields, fields.word("quant_method", method))
    return None


def _method(fields: SchemeFields) -> str:
    """bitsandbytes came before `quant_method`."""
    if "load_in_8bit" in fields or "load_in_4bit" in fields:
        return fields.word("quant_method", "bitsandbytes")
    return fields.word("quant_method")


def _scheme(fields: SchemeFields, method: str) -> QuantizationScheme:
    advice = "use the unquantised checkpoint, one of these, or a GGUF file"
    fields.refuse_unless("quant_method", method, READERS, advice)
    return READERS[method](fields)
