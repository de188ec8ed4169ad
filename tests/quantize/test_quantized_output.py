"""Every method in every format it can be written as: the engine reads it, and it says what the dense form says."""

from __future__ import annotations

import json
import math
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from numpy_model import TEXT, mean_divergence, model_log_probabilities, tiny_model, token_windows
from tiny_checkpoints import CASES_BY_NAME, VOCAB_SIZE, Case

from vivace.core.errors import ConfigError
from vivace.core.sampling import SamplingParams
from vivace.engine.llm import LLM
from vivace.formats.checkpoint import open_checkpoint
from vivace.formats.dequantize import dequantize
from vivace.quantize.options import FORMATS, quantize_options
from vivace.quantize.quantization import quantize_model

WHOLE = {"hidden_size": 64, "intermediate_size": 96, "head_dim": 16}  # widths of whole words and groups
CASES_BY_NAME["whole"] = Case("whole", "llama", WHOLE)
CASES_BY_NAME["whole-phi3"] = Case("whole-phi3", "phi3", WHOLE)
SMALL = {"num_samples": 4, "seq_len": 32}
SEED = 5


def asked(method: str, format: str) -> dict[str, object]:
    grouped = {"group_size": 32} if method in ("rtn", "gptq", "awq", "mixed") else {}
    calibrated = {} if method in ("rtn", "w8a8", "llm-int8") else SMALL
    return {"format": format} | grouped | calibrated | ({"target_bits": 7.0} if method == "mixed" else {})


@pytest.fixture(scope="module", params=["whole", "whole-phi3"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Phi-3's fused matrices, and separate ones."""
    directory = tiny_model(tmp_path_factory.mktemp("model") / "model", request.param)
    (directory / "text.txt").write_text(TEXT)
    return directory


def log_probabilities(directory: Path) -> list[float]:
    """Of each token of a fixed prompt, by the engine that serves."""
    llm = LLM(str(directory), num_threads=1, max_model_len=64)
    prompt = token_windows(VOCAB_SIZE, 1, 40, SEED)[0].tolist()
    output = llm.generate([prompt], SamplingParams(max_tokens=0, temperature=0.0, prompt_logprobs=0))[0]
    assert output.prompt_logprobs is not None
    return [entry.logprob for entry in output.prompt_logprobs[1:] if entry is not None]


@pytest.mark.parametrize(
    ("method", "format"), [(m, f) for m, formats in FORMATS.items() for f in formats if f not in ("dense", "gguf")]
)
def test_the_engine_reads_what_is_written(model: Path, tmp_path: Path, method: str, format: str) -> None:
    data = str(model / "text.txt")
    options = quantize_options(method, **asked(method, format))
    result = quantize_model(str(model), tmp_path / "out", options, calibration=data)
    same = {"symmetric": options.symmetric} if method in ("rtn", "gptq", "awq") else {}
    dense = quantize_options(method, **asked(method, "dense") | same)
    quantize_model(str(model), tmp_path / "dense", dense, calibration=data)
    packed, floats = log_probabilities(tmp_path / "out"), log_probabilities(tmp_path / "dense")
    original = log_probabilities(model)
    difference = np.abs(np.subtract(packed, floats))
    assert difference.mean() < 0.06  # int8 activations, which the dense form does not have
    assert 0 < np.abs(np.subtract(packed, original)).mean() < 1.5
    assert result.output_bytes < result.source_bytes
    assert result.mean_bits is not None
    assert len(result.bits_of_module) == 4 * (4 if "qkv" in str(result.bits_of_module) else 7)


@pytest.mark.parametrize("gguf_type", ["Q4_K_M", "Q8_0", "F16"])
def test_gguf_with_importance(model: Path, tmp_path: Path, gguf_type: str) -> None:
    options = quantize_options("gguf", gguf_type=gguf_type, **({} if gguf_type == "F16" else SMALL))
    data = None if gguf_type == "F16" else str(model / "text.txt")
    quantize_model(str(model), tmp_path / "out.gguf", options, calibration=data)
    difference = np.abs(np.subtract(log_probabilities(tmp_path / "out.gguf"), log_probabilities(model)))
    assert difference.mean() < {"F16": 0.01, "Q8_0": 0.1, "Q4_K_M": 0.6}[gguf_type]
    assert [path.name for path in tmp_path.iterdir()] == ["out.gguf"]


def test_skipped_layers_stay_as_they_are(model: Path, tmp_path: Path) -> None:
    options = quantize_options("rtn", group_size=32, format="compressed-tensors", skip_layers=("0", "down_proj"))
    result = quantize_model(str(model), tmp_path / "out", options)
    floats = {module for module, bits in result.bits_of_module.items() if bits is None}
    assert all(".layers.0." in module or "down_proj" in module for module in floats)
    assert len([module for module in floats if "down_proj" in module]) == 4
    config = json.loads((tmp_path / "out" / "config.json").read_text())["quantization_config"]
    assert floats | {"lm_head"} == set(config["ignore"])
    with open_checkpoint(model) as before, open_checkpoint(tmp_path / "out") as after:
        for module in floats:
            np.testing.assert_array_equal(
                dequantize(before.tensor(f"{module}.weight")), dequantize(after.tensor(f"{module}.weight"))
            )
    log_probabilities(tmp_path / "out")


def test_mixed_precision_spends_its_budget_where_it_matters(model: Path, tmp_path: Path) -> None:
    windows = token_windows(VOCAB_SIZE, 4, 32, SEED)
    reference = model_log_probabilities(model, windows)
    divergences = []
    for target in (5.0, 7.0, 12.0):
        options = quantize_options("mixed", target_bits=target, group_size=32, format="dense", **SMALL)
        result = quantize_model(str(model), tmp_path / f"{target}", options, calibration=str(model / "text.txt"))
        assert result.mean_bits is not None
        assert target - 1.5 < result.mean_bits <= target
        divergences.append(mean_divergence(reference, model_log_probabilities(result.output, windows)))
    assert all(fewer > more for fewer, more in pairwise(divergences))
    options = quantize_options("mixed", target_bits=4.2, group_size=32, **SMALL)
    with pytest.raises(ConfigError, match=r"less than 4\.5"):
        quantize_model(str(model), tmp_path / "none", options, calibration=str(model / "text.txt"))


@pytest.mark.parametrize(
    ("method", "given", "message"),
    [
        ("hqq", {}, "'hqq' is not known; there are rtn"),
        ("rtn", {"damping": 0.1}, "--damping does nothing for rtn"),
        ("w8a8", {"bits": 4}, "--bits does nothing for w8a8"),
        ("gptq", {"format": "awq"}, "gptq cannot be written as 'awq'"),
        ("gptq", {"bits": 3}, "--bits must be 4 or 8"),
        ("gptq", {"group_size": 48}, "multiple of 32"),
        ("gptq", {"damping": 0.0}, "--damping must be above 0"),
        ("smoothquant", {"alpha": 1.5}, "--alpha must be from 0.0 to 1.0"),
        ("smoothquant", {"alpha": math.nan}, "--alpha must be from"),
        ("awq", {"symmetric": True, "format": "awq"}, "give --bits 4 and --asym"),
        ("rtn", {"bits": 8, "symmetric": False}, "8 bits are written symmetric"),
        ("mixed", {"target_bits": 3.0}, "--target-bits must be from 4.0"),
        ("gguf", {"gguf_type": "IQ2"}, "'IQ2' is not known; there are F32"),
        ("gptq", {"num_samples": 0}, "--num-samples must be from 1"),
    ],
)
def test_options_that_cannot_be(method: str, given: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        quantize_options(method, **given)
    assert message in str(refusal.value)
