"""The `compressed-tensors` package reads ours, we read its. Opt-in: where it is not installed, this skips."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("compressed_tensors")

import torch
from compressed_tensors.compressors import BaseCompressor
from compressed_tensors.quantization import QuantizationConfig
from quantized_directory import read_weight, write_module
from quantized_packers import random_quantized

from vivace.formats.compressed_tensors import compressed_tensors_config, pack_compressed_tensors
from vivace.formats.compressed_tensors_scheme import WeightScheme
from vivace.formats.quantized_matrix import QuantizedMatrix

SEED = 67
SCHEMES = [
    WeightScheme(bits=4, group_size=32),
    WeightScheme(bits=4, group_size=32, symmetric=False),
    WeightScheme(bits=4, group_size=None, symmetric=False),
    WeightScheme(bits=8, group_size=64),
    WeightScheme(bits=8, group_size=None, activations="token"),
]


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
def test_both_ways(tmp_path: Path, scheme: WeightScheme) -> None:
    group_size = scheme.group_size or 128
    q = random_quantized(np.random.default_rng(SEED), 24, 128, scheme.bits, group_size, symmetric=scheme.symmetric)
    matrix = QuantizedMatrix(scheme.bits, group_size, q.codes, q.scales.astype(np.float32), q.zeros)
    config = compressed_tensors_config([scheme])
    theirs = QuantizationConfig.model_validate(config)
    their_scheme = theirs.config_groups["group_0"]
    compressor = BaseCompressor.get_value_from_registry(theirs.format)
    ours = pack_compressed_tensors("m", matrix, scheme.activations)
    state = {name.removeprefix("m."): torch.from_numpy(array.copy()) for name, array in ours.items()}
    state["weight_scale"] = state["weight_scale"].float()
    plain = compressor.decompress(state, their_scheme)
    np.testing.assert_array_equal(plain["weight"].float().numpy(), q.weights())
    compressed = compressor.compress(plain, their_scheme)
    write_module(tmp_path, theirs.to_dict(), {part: tensor.numpy() for part, tensor in compressed.items()})
    np.testing.assert_array_equal(read_weight(tmp_path), q.weights())
