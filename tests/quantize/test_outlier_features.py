"""With planted outlier features plain W8A8 breaks; SmoothQuant and LLM.int8() hold. Without them all three hold."""

from __future__ import annotations

from pathlib import Path

import pytest
from outlier_features import plant_outliers

from vivace.engine.llm import LLM
from vivace.evaluate.evaluation import sample_text
from vivace.evaluate.quality import Quality, measure_quality
from vivace.quantize.options import quantize_options
from vivace.quantize.quantization import quantize_model
from vivace.resources import embedded_model_path

TEXT = sample_text()[:6_000]


def quality(model: Path, reference: LLM, output: Path, method: str) -> Quality:
    calibrated = {"num_samples": 8, "seq_len": 256} if method == "smoothquant" else {}
    quantize_model(str(model), output, quantize_options(method, **calibrated))
    return measure_quality(LLM(str(output), max_model_len=512), reference, TEXT)


def loss(figures: Quality) -> float:
    assert figures.reference_perplexity is not None
    return figures.perplexity / figures.reference_perplexity - 1


@pytest.fixture(scope="module")
def outliers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Channels 40 times their size, and columns that read them a 40th: much smaller ones would fall between the
    levels of int8 rows, which LLM.int8() does not claim to mend."""
    room = tmp_path_factory.mktemp("outliers")
    return plant_outliers(embedded_model_path(), room / "model", num_channels=8, factor=40.0, seed=1)


def test_planting_changes_nothing_in_floats(outliers: Path) -> None:
    plain = LLM(str(embedded_model_path()), quantization="f32", max_model_len=512)
    planted = LLM(str(outliers), quantization="f32", max_model_len=512)
    figures = measure_quality(planted, plain, TEXT)
    assert figures.kl_divergence_mean is not None
    assert abs(figures.kl_divergence_mean) < 1e-6


def test_plain_w8a8_breaks_where_the_others_hold(outliers: Path, tmp_path: Path) -> None:
    reference = LLM(str(outliers), quantization="f32", max_model_len=512)
    plain, smooth, mixed = (
        quality(outliers, reference, tmp_path / method, method) for method in ("w8a8", "smoothquant", "llm-int8")
    )
    assert loss(plain) > 0.03
    assert abs(loss(smooth)) < 0.005
    assert abs(loss(mixed)) < 0.005
    assert plain.kl_divergence_mean is not None
    for held in (smooth, mixed):
        assert held.kl_divergence_mean is not None
        assert held.kl_divergence_mean < 0.1 * plain.kl_divergence_mean


@pytest.mark.parametrize("method", ["w8a8", "smoothquant", "llm-int8"])
def test_without_outliers_int8_costs_next_to_nothing(method: str, tmp_path: Path) -> None:
    model = embedded_model_path()
    figures = quality(model, LLM(str(model), quantization="f32", max_model_len=512), tmp_path / "out", method)
    assert abs(loss(figures)) < 0.005
