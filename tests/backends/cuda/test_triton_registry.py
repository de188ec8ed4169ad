"""Which implementation an operation gets, and that the reason is kept and counted."""

from __future__ import annotations

import pytest
from triton_interpreter import DEVICE, HAS_DEVICE, torch

from vivace.backends.cuda.code_layout import LAYOUTS
from vivace.backends.cuda.kernels.case import AttentionCase, CacheWriteCase, ProductCase, RowCase
from vivace.backends.cuda.kernels.registry import KernelRegistry, supports

REFUSED = {
    "registers": AttentionCase("bf16", "bfloat16", 640),
    "path of guesses": AttentionCase("int4_k_per_channel", "bfloat16", 128, has_branches=True),
    "int4_k_per_channel": CacheWriteCase("int4_k_per_channel", 128),
    "groups of 32": CacheWriteCase("int4_per_token_head", 80),
    "matrix of": ProductCase("a matrix of bfloat16", "bfloat16", 256),
    "40000 inputs": ProductCase("int8_channel", "bfloat16", 40000),
    "columns": RowCase("rms_norm", "bfloat16", 32768),
    "the scale of 32768": RowCase("coded_gated_activation", "bfloat16", 40000),
    "runs of 16": RowCase("coded_rms_norm", "bfloat16", 1000),
    "float64": RowCase("rope", "float64", 128),
}


@pytest.mark.parametrize("words", REFUSED)
def test_refusals_say_why(words: str) -> None:
    reason = supports(REFUSED[words])
    assert reason is not None
    assert words in reason


def test_what_a_model_needs_has_kernels() -> None:
    for kv_dtype in ("f32", "bf16", "f16", "int8_per_token_head", "int4_per_token_head", "fp8_e4m3"):
        for head_dim in (64, 128, 256, 512):
            assert supports(AttentionCase(kv_dtype, "bfloat16", head_dim, has_branches=True)) is None
    for encoding in (*LAYOUTS, "int8_channel", "int8_outlier", "fp8_channel"):
        assert supports(ProductCase(encoding, "bfloat16", 4096)) is None


def test_choices_are_counted() -> None:
    registry = KernelRegistry(DEVICE, interpreted=not HAS_DEVICE)
    for _ in range(3):
        assert registry.takes(AttentionCase("bf16", "bfloat16", 128))
    assert not registry.takes(ProductCase("a matrix of bfloat16", "bfloat16", 256))
    assert registry.explain() == [
        "attention: triton, 3 times",
        "linear: torch (no kernel multiplies with a matrix of bfloat16), 1 times",
    ]


def test_without_a_device_torch_runs() -> None:
    registry = KernelRegistry(torch.device("cpu"))
    assert not registry.takes(RowCase("rope", "bfloat16", 128))
    assert "cpu" in registry.explain()[0]
