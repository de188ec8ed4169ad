"""A GGUF file with random weights of a real shape, for engines that read no other random model."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np

from vivace.formats.gguf_metadata import MetadataValue
from vivace.formats.gguf_writer import GGUFTensor, write_gguf
from vivace.formats.quantize_rtn import encode
from vivace.formats.tensor import StoredTensor
from vivace.models.dummy import DummyTensors
from vivace.models.gguf_description import describe, gguf_spec
from vivace.models.parameter_shapes import layer_shapes, model_shapes
from vivace.models.presets import preset_spec
from vivace.models.spec import ModelSpec
from vivace.models.weight_names import GGUFNames

# kind -> (most matrices, those that the mixture gives more bits, general.file_type). Of Q4_K_M, half of the layers'
# values and down-projections and the table are q6_k.
KINDS = {
    "Q4_0": ("q4_0", "q4_0", 2),
    "Q8_0": ("q8_0", "q8_0", 7),
    "BF16": ("bf16", "bf16", 32),
    "Q4_K_M": ("q4_k", "q6_k", 15),
    "Q6_K": ("q6_k", "q6_k", 18),
}
BYTES = 256


def random_gguf(path: Path, config: str, kind: str, seed: int = 0) -> Path:
    """Writes the preset `config` with random weights of `kind` to `path`, unless it is there."""
    if path.exists():
        return path
    spec = preset_spec(config)
    most, favoured, file_type = KINDS[kind]
    metadata, extra = describe(spec, config)
    metadata |= {"general.file_type": file_type, "general.quantization_version": 2} | _vocabulary(spec)
    sources = {encoding: DummyTensors(encoding, seed) for encoding in {most, favoured}}
    names = GGUFNames(gguf_spec(spec))
    tensors = []

    def add(name: str, parameter: str, shape: tuple[int, ...], is_favoured: bool) -> None:
        if len(shape) == 1:
            stored = encode(np.full(shape, 1.0 if parameter.endswith("norm") else 0.0, np.float32), "f32", name)
        else:
            stored = sources[favoured if is_favoured else most].matrix(name, shape)
        tensors.append(GGUFTensor(name, stored.encoding, stored.shape, partial(_given, stored)))

    for parameter, shape in model_shapes(spec).items():
        add(names.model(parameter).name, parameter, shape, parameter in ("token_embedding", "lm_head"))
    for layer in range(spec.num_layers):
        for parameter, shape in layer_shapes(spec).items():
            is_favoured = parameter in ("v", "down") and _has_more_bits(layer, spec.num_layers)
            add(names.layer(parameter, layer, shape[0]).name, parameter, shape, is_favoured)
    for name, stored in extra.items():
        tensors.append(GGUFTensor(name, stored.encoding, stored.shape, partial(_given, stored)))
    path.parent.mkdir(parents=True, exist_ok=True)
    write_gguf(path, metadata, tensors)
    return path


def _given(stored: StoredTensor) -> StoredTensor:
    return stored


def _has_more_bits(layer: int, num_layers: int) -> bool:
    """The first and the last eighth of the layers, and every third between."""
    eighth = num_layers // 8
    return layer < eighth or layer >= 7 * num_layers // 8 or (layer - eighth) % 3 == 2


def _vocabulary(spec: ModelSpec) -> dict[str, MetadataValue]:
    """Made-up tokens: the workloads are token ids, but readers of GGUF want a vocabulary."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    spare = iter(range(256, 512))
    alphabet = [chr(byte) if byte in printable else chr(next(spare)) for byte in range(BYTES)]
    words = [f"{alphabet[32]}w", *(f"{alphabet[32]}w{number}" for number in range(spec.vocab_size - BYTES - 1))]
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "llama-bpe",
        "tokenizer.ggml.tokens": alphabet + words,
        "tokenizer.ggml.token_type": np.ones(spec.vocab_size, np.int32),
        "tokenizer.ggml.merges": [f"{alphabet[32]} w"],
        "tokenizer.ggml.bos_token_id": spec.vocab_size - 1,
        "tokenizer.ggml.eos_token_id": spec.vocab_size - 2,
    }
