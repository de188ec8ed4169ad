"""Which encoding each matrix of a GGUF file gets: the mixtures that llama.cpp's quantiser names (llama-quant.cpp).

A mixture spends more bits where they pay: on the output matrix (with tied embeddings, the table), and in some layers
on the values' and the second feed-forward matrix.
"""

from __future__ import annotations

from vivace.core.errors import ConfigError
from vivace.formats.tensor import ENCODINGS
from vivace.models.spec import ModelSpec
from vivace.models.weight_names import GGUF_EMBEDDING

FILE_TYPES = {  # the numbers of `general.file_type` (llama.h, `enum llama_ftype`), by the names that files go by
    "F32": 0,
    "F16": 1,
    "Q4_0": 2,
    "Q8_0": 7,
    "Q4_K_M": 15,
    "Q5_K_M": 17,
    "Q6_K": 18,
    "BF16": 32,
}
_MAIN_ENCODINGS = {"Q4_K_M": "q4_k", "Q5_K_M": "q5_k"}  # of the others: the name itself
_NARROWER = {"q4_k": "q5_0", "q5_k": "q5_1", "q6_k": "q8_0"}  # for rows that hold no whole super-blocks of 256
_LLAMA_70B_LAYERS = 80


class Mixture:
    """A file type applied to one model. Raises ConfigError for a name that is not in FILE_TYPES, in either case."""

    def __init__(self, file_type: str, spec: ModelSpec, *, has_importance: bool) -> None:
        self.file_type = file_type.upper()
        if self.file_type not in FILE_TYPES:
            raise ConfigError(f"encoding {file_type!r} cannot be written; known are {', '.join(FILE_TYPES)}")
        self.spec = spec
        self.has_importance = has_importance
        self.main = _MAIN_ENCODINGS.get(self.file_type, self.file_type.lower())

    @property
    def number(self) -> int:
        """For `general.file_type`."""
        return FILE_TYPES[self.file_type]

    @property
    def is_quantized(self) -> bool:
        return ENCODINGS[self.main][0] > 1

    def encoding(self, name: str, width: int, layer: int | None = None) -> str:
        """Of the matrix that GGUF calls `name`, `width` columns wide; float16 where no whole blocks fit."""
        if not self.is_quantized:
            return self.main
        wanted = self._of_output(width) if layer is None else self._of_layer(name, layer)
        if layer is None and name == GGUF_EMBEDDING and not self.spec.tied_embeddings:
            wanted = self.main
        if width % ENCODINGS[wanted][0]:
            wanted = _NARROWER.get(wanted, wanted)
        return "f16" if width % ENCODINGS[wanted][0] else wanted

    def _of_output(self, width: int) -> str:
        return "q8_0" if self.main == "q8_0" or width % ENCODINGS[self.main][0] else "q6_k"

    def _of_layer(self, name: str, layer: int) -> str:
        kind = name.split(".")[2]
        if self.file_type in _MAIN_ENCODINGS:
            if kind in ("attn_v", "ffn_down") and self._has_more_bits(layer):
                return "q6_k"
            if kind == "attn_v" and self.main == "q4_k" and self._is_70b():
                return "q5_k"  # eight heads share it, so it is small
            if kind == "attn_qkv":
                return {"q4_k": "q5_k", "q5_k": "q6_k"}[self.main]
        if self.main == "q4_0" and kind == "ffn_down" and self.has_importance and layer < self.spec.num_layers // 8:
            return "q4_1"
        return self.main

    def _has_more_bits(self, layer: int) -> bool:
        """The first and the last eighth of the layers, and every third between them."""
        num_layers = self.spec.num_layers
        eighth = num_layers // 8
        return layer < eighth or layer >= 7 * num_layers // 8 or (layer - eighth) % 3 == 2

    def _is_70b(self) -> bool:
        is_grouped = self.spec.num_heads != self.spec.num_kv_heads
        return self.spec.family == "llama" and self.spec.num_layers == _LLAMA_70B_LAYERS and is_grouped
