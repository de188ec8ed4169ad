"""What a model's weights become under a quantization: encodings, bytes and elements, without reading a weight."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from typing import Literal, cast

from vivace.core.errors import ConfigError
from vivace.core.nearest_name import nearest_name
from vivace.models.parameter_shapes import layer_shapes, model_shapes
from vivace.models.parameters import QUANTIZED_ENCODINGS, Quantization, encoding_of
from vivace.models.spec import ModelSpec
from vivace.models.weight_names import GGUF_MODEL_NAMES
from vivace.plan.layout import FP8, fits_columns, packed_bytes, stored_bytes
from vivace.quantize.gguf_mixture import FILE_TYPES, Mixture

MachineKind = Literal["cpu", "gpu"]

STORED = "stored"  # as the file has them
# Formats of checkpoints that leave the tables, which are no linear layers to them, in 16 bits.
CHECKPOINT_ENCODINGS = {"gptq": "int4_g128", "awq": "int4_g128", "fp8": FP8}
FLOATS = {"f16": "f16", "fp16": "f16"}
MIXTURES = tuple(name for name in FILE_TYPES if name not in ("F32", "F16", "BF16"))
QUANTIZATIONS = (*QUANTIZED_ENCODINGS, "f16", *CHECKPOINT_ENCODINGS, *MIXTURES)
TABLES = ("token_embedding", "lm_head")
FLOAT_BYTES = 4  # of vectors, in every backend
# Our name of a layer's matrix: that of GGUF.
GGUF_KINDS = {
    "q": "attn_q",
    "k": "attn_k",
    "v": "attn_v",
    "o": "attn_output",
    "gate": "ffn_gate",
    "up": "ffn_up",
    "down": "ffn_down",
}


@dataclass(frozen=True, slots=True)
class Product:
    """Matrices of one layout that a step multiplies: in all layers together, or the output matrix."""

    layout: str
    elements: int
    num_bytes: int
    is_head: bool  # multiplied for sampled rows alone


@dataclass(frozen=True, slots=True)
class WeightPlan:
    """`num_bytes`: of everything that is held. `products`: what a step reads, by layout."""

    num_bytes: int
    products: tuple[Product, ...]

    @property
    def product_bytes(self) -> int:
        return sum(product.num_bytes for product in self.products)


@dataclass(frozen=True)
class StoredEncodings:
    """The encoding of each matrix as a file has it, by our names (`layers.3.q`)."""

    by_name: Mapping[str, str]

    def __hash__(self) -> int:
        return id(self)


def quantization_name(name: str) -> str:
    """The name as it is known here, whatever its case. Raises `ConfigError` naming the nearest one."""
    spellings = {known.lower(): known for known in (*QUANTIZATIONS, STORED)} | FLOATS
    if name.lower() not in spellings:
        raise ConfigError(f"unknown quantization {name!r}{nearest_name(name, QUANTIZATIONS)}")
    return spellings[name.lower()]


@lru_cache(maxsize=512)
def weight_plan(
    spec: ModelSpec, quantization: str, kind: MachineKind, stored: StoredEncodings | None = None
) -> WeightPlan:
    """Encodings as the loader chooses them. Matrices whose width an encoding cannot hold stay in 16 bits, as does an
    embedding table that is only looked up. Raises `ConfigError` for a name that is not known or not for this kind."""
    choose = _chooser(spec, quantization_name(quantization), kind, stored)
    size = packed_bytes if kind == "cpu" else stored_bytes
    groups: dict[tuple[str, bool], list[int]] = {}
    total = 0
    for name, layer, shape in _parameters(spec):
        if len(shape) == 1:
            total += shape[0] * FLOAT_BYTES
            continue
        layout = choose(name, layer, shape[1])
        num_bytes = size(layout, *shape)
        total += num_bytes
        if name == "token_embedding" and not spec.tied_embeddings:
            continue
        group = groups.setdefault((layout, name in TABLES), [0, 0])
        group[0] += prod(shape)
        group[1] += num_bytes
    products = (Product(layout, sums[0], sums[1], is_head) for (layout, is_head), sums in groups.items())
    return WeightPlan(total, tuple(products))


def _parameters(spec: ModelSpec) -> list[tuple[str, int | None, tuple[int, ...]]]:
    of_layer = layer_shapes(spec)
    named: list[tuple[str, int | None, tuple[int, ...]]] = [
        (name, None, shape) for name, shape in model_shapes(spec).items()
    ]
    named += [(name, layer, shape) for layer in range(spec.num_layers) for name, shape in of_layer.items()]
    return named


class _Chooser:
    """The encoding of one matrix, before its width is looked at."""

    def __init__(self, spec: ModelSpec, quantization: str, kind: MachineKind, stored: StoredEncodings | None) -> None:
        self.spec = spec
        self.quantization = quantization
        self.stored = stored
        self.mixture = Mixture(quantization, spec, has_importance=False) if quantization in MIXTURES else None
        self.kind = kind

    def __call__(self, name: str, layer: int | None, columns: int) -> str:
        if self.stored is not None and self.quantization == STORED:
            encoding = self.stored.by_name.get(name if layer is None else f"layers.{layer}.{name}", "bf16")
            return "bf16" if encoding == FP8 and self.kind == "cpu" else encoding
        if self.mixture is not None:
            return self._of_mixture(self.mixture, name, layer, columns)
        wanted = self._wanted(name)
        return wanted if fits_columns(wanted, columns) else "bf16"

    def _wanted(self, name: str) -> str:
        is_table = name in TABLES
        if self.quantization in CHECKPOINT_ENCODINGS:
            return "bf16" if is_table else CHECKPOINT_ENCODINGS[self.quantization]
        if self.quantization == "f16":
            return "f16"
        is_lookup = name == "token_embedding" and not self.spec.tied_embeddings
        if is_lookup and self.quantization != "f32":
            return "bf16"
        if self.kind == "gpu" and is_table and self.quantization in ("w8a8", "llm_int8"):
            return "bf16"
        return encoding_of(name, QUANTIZED_ENCODINGS[cast(Quantization, self.quantization)])

    def _of_mixture(self, mixture: Mixture, name: str, layer: int | None, columns: int) -> str:
        if layer is None:
            return mixture.encoding(GGUF_MODEL_NAMES[name], columns)
        return mixture.encoding(f"blk.{layer}.{GGUF_KINDS[name]}.weight", columns, layer)


def _chooser(spec: ModelSpec, quantization: str, kind: MachineKind, stored: StoredEncodings | None) -> _Chooser:
    if quantization == "fp8" and kind == "cpu":
        raise ConfigError("fp8 weights are for GPUs: no CPU kernel reads them; use int8 or w8a8")
    if quantization == STORED and stored is None:
        raise ConfigError("only a model file has stored encodings: name a quantization such as int8")
    return _Chooser(spec, quantization, kind, stored)
