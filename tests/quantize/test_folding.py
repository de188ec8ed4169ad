"""Scales folded into norms and into the rows before leave what a layer computes; searches find what they should."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy_model import tiny_model, token_windows
from tiny_checkpoints import VOCAB_SIZE

from vivace.quantize.awq import search_clip, search_scale
from vivace.quantize.decoder_layer import STAGES, DecoderLayer, Floats
from vivace.quantize.embedding import embed
from vivace.quantize.folding import STAGE_NORMS, STAGE_PRODUCERS, LayerScaling, shared_by_heads
from vivace.quantize.grid import round_to_nearest
from vivace.quantize.layer_pass import LayerPass, Scratch
from vivace.quantize.smoothquant import smoothing_scale
from vivace.quantize.source_model import SourceModel
from vivace.quantize.statistics import accumulate_hessian, observe

SEED = 2_306_00978


@pytest.mark.parametrize(
    "name", ["llama-gqa", "llama-biases", "qwen2", "qwen3", "gemma-mqa", "gemma2", "gemma3", "phi3-window"]
)
def test_a_scaled_layer_computes_the_same(name: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(SEED)
    with SourceModel(str(tiny_model(tmp_path / "model", name))) as model:
        scaling = LayerScaling(model, 1)
        for stage, norm in STAGE_NORMS.items():
            scale = np.exp(rng.standard_normal(model.spec.hidden_size)).astype(np.float32)
            taken = scaling.fold_into_norm(norm, STAGES[stage], scale)
            np.testing.assert_allclose(taken, scale, rtol=1e-3)
        for stage, producer in STAGE_PRODUCERS.items():
            scale = np.exp(rng.standard_normal(model.layer_shapes[stage][1])).astype(np.float32)
            scale = shared_by_heads(model, scale) if stage == "o" else scale
            scaling.fold_into_rows(producer, stage, scale)
        hidden = np.empty((48, model.spec.hidden_size), np.float32)
        embed(model, token_windows(VOCAB_SIZE, 2, 24), hidden)
        scratch = Scratch(tmp_path, model.spec, 2, 24)
        plain, scaled = np.empty_like(hidden), np.empty_like(hidden)
        layer = DecoderLayer(model.spec, 1, model.vectors(1))
        LayerPass(layer, hidden, plain, scratch).run(
            lambda matrix, rows: model.values(matrix, 1, rows), model.row_blocks
        )
        layer = DecoderLayer(model.spec, 1, scaling.layer_vectors())
        LayerPass(layer, hidden, scaled, scratch).run(scaling.weights, model.row_blocks)
        assert np.abs(plain - hidden).max() > 0.1
        np.testing.assert_allclose(scaled, plain, atol=2e-4)


def test_a_norm_weight_of_zero_keeps_its_scale(tmp_path: Path) -> None:
    with SourceModel(str(tiny_model(tmp_path / "model"))) as model:
        scale = np.full(model.spec.hidden_size, 1e30, np.float32)  # the quotient is 0 in float32's reach, or nearly
        scaling = LayerScaling(model, 0)
        taken = scaling.fold_into_norm("attention_norm", STAGES["qkv"], scale)
        assert np.isfinite(taken).all()
        assert np.isfinite(scaling.layer_vectors()["attention_norm"]).all()


def awkward_inputs() -> tuple[Floats, Floats]:
    """Weights [24, 64] and inputs [256, 64]: inputs 5 and 17 are 40 times the others, their weights a fifth."""
    rng = np.random.default_rng(SEED + 1)
    weights, inputs = rng.standard_normal((24, 64)), rng.standard_normal((256, 64))
    inputs[:, [5, 17]] *= 40
    weights[:, [5, 17]] /= 5
    return weights.astype(np.float32), inputs.astype(np.float32)


def test_the_scale_search_favours_large_inputs() -> None:
    weights, inputs = awkward_inputs()

    def rounded(weights_NK: Floats) -> Floats:
        return round_to_nearest(weights_NK, 4, 64, True).dequantize()

    scale = search_scale([weights[:10], weights[10:]], np.abs(inputs).mean(axis=0), inputs, rounded)
    assert min(scale[[5, 17]]) > 3 * np.median(scale)
    plain = np.linalg.norm(inputs @ (rounded(weights) - weights).T)
    scaled = np.linalg.norm(inputs @ (rounded(weights * scale) / scale - weights).T)
    assert scaled < 0.5 * plain


def test_the_scale_is_one_where_inputs_are_alike() -> None:
    weights, _ = awkward_inputs()
    inputs = np.ones((8, 64), np.float32)
    scale = search_scale([weights], np.ones(64, np.float32), inputs, lambda weights_NK: weights_NK + 0.01)
    np.testing.assert_array_equal(scale, np.ones(64))


def test_clipping_lessens_the_error_of_every_row() -> None:
    rng = np.random.default_rng(SEED + 2)
    weights = rng.standard_t(3, (16, 96)).astype(np.float32)
    inputs = rng.standard_normal((200, 96)).astype(np.float32)
    shrink = search_clip(weights, inputs, 4, 32, False)
    assert shrink.shape == (16, 3)
    assert shrink.min() >= 0.5
    assert shrink.max() <= 1.0
    assert (shrink < 1).mean() > 0.3
    for group in range(3):
        columns = slice(32 * group, 32 * group + 32)
        part, seen = weights[:, columns], inputs[:, columns]
        clipped = round_to_nearest(part, 4, 32, False, shrink[:, group : group + 1]).dequantize()
        plain = round_to_nearest(part, 4, 32, False).dequantize()
        errors = [np.square(seen @ (one - part).T).sum(axis=0) for one in (clipped, plain)]
        assert (errors[0] <= errors[1] * 1.0001).all()


def test_smoothing_is_equation_4() -> None:
    inputs = np.array([100.0, 1.0, 0.0, 4.0], np.float32)
    weights = np.array([0.25, 0.25, 0.5, 0.0], np.float32)
    scale = smoothing_scale(inputs, weights, 0.5)
    np.testing.assert_allclose(scale, [20.0, 2.0, 1.0, 1.0], rtol=1e-6)
    np.testing.assert_allclose(inputs[:2] / scale[:2], weights[:2] * scale[:2], rtol=1e-6)
    np.testing.assert_allclose(smoothing_scale(inputs, weights, 1.0)[:2], [100, 1], rtol=1e-6)


def test_statistics_are_those_of_all_chunks() -> None:
    inputs = np.random.default_rng(SEED + 3).standard_normal((5_000, 300)).astype(np.float32)
    chunks = [(slice(at, min(at + 700, 5_000)), inputs[at : at + 700]) for at in range(0, 5_000, 700)]
    seen = observe(chunks, 5_000)
    np.testing.assert_allclose(seen.mean_abs_K, np.abs(inputs).mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(seen.mean_square_K, np.square(inputs).mean(axis=0), rtol=1e-5)
    np.testing.assert_array_equal(seen.absmax_K, np.abs(inputs).max(axis=0))
    np.testing.assert_array_equal(seen.sample_RK, inputs[::2])
    hessian = np.empty((300, 300))
    accumulate_hessian(chunks, hessian)
    np.testing.assert_allclose(hessian, 2 * inputs.T.astype(np.float64) @ inputs, atol=0.02)
    np.testing.assert_array_equal(hessian, hessian.T)
