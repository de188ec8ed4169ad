"""Attention of prompts by torch's own function, and by stand-ins of FlashInfer's and flash-attn's interfaces."""

from __future__ import annotations

from dataclasses import replace
from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest
from attention_stand_ins import PagedPrefill, flash_attn_varlen_func, install
from paged_case import PagedCase, paged_case
from triton_interpreter import DEVICE, HAS_DEVICE, torch

from vivace.backends.cuda import attention_choice
from vivace.backends.cuda.attention_choice import choose_prompts
from vivace.backends.cuda.backend import CudaBackend
from vivace.backends.cuda.kernels.attention import paged_attention
from vivace.backends.cuda.kernels.attention_shape import AttentionShape
from vivace.backends.cuda.kernels.ragged_rows import tile_plan
from vivace.backends.cuda.prompt_attention import CachedLayer, PromptAttention
from vivace.backends.cuda.prompt_cost import rates_of, rows_worth_copying
from vivace.core.config import EngineConfig
from vivace.core.errors import ConfigError
from vivace.engine.backend import make_backend

SHAPE = AttentionShape(4, 2, 64, 0.125)
LAYER = CachedLayer(SHAPE, 16, torch.bfloat16)


@pytest.fixture(autouse=True)
def nothing_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    def found(name: str) -> Any:
        return None if name in attention_choice.PACKAGES else find_spec(name)

    monkeypatch.setattr(attention_choice, "find_spec", found)


def stand_in(monkeypatch: pytest.MonkeyPatch, name: str, **attributes: Any) -> None:
    install(monkeypatch, name, **attributes)
    monkeypatch.setattr(attention_choice, "find_spec", lambda other: other if other == name else None)


def attended(case: PagedCase, provider: PromptAttention, is_prompt_B: list[bool]) -> np.ndarray:
    """Prompts by the library, the others by the kernel."""
    heads = case.shape.num_heads // case.shape.num_kv_heads
    plan = tile_plan(case.inputs, heads, 128, elsewhere_B=np.array(is_prompt_B))
    arrays = plan.arrays | {"tables": case.inputs.block_tables_BX, "slots": case.inputs.slots_T}
    rows = plan.on_device({name: torch.from_numpy(array).to(DEVICE) for name, array in arrays.items()})
    assert rows.prompts is not None
    out_TD = paged_attention(case.q, case.keys, case.values, rows, case.shape)
    provider.attend(case.q, case.keys.codes, case.values.codes, rows.prompts, case.shape, out_TD)
    result: np.ndarray = out_TD.float().cpu().numpy()
    return result


def test_torch_takes_prompts_without_context() -> None:
    case = paged_case(np.random.default_rng(3), [(33, 33), (1, 9), (20, 20), (18, 40)], SHAPE)
    choice = choose_prompts("sdpa", [replace(LAYER, dtype=torch.float32)], DEVICE)
    assert (choice.name, choice.reason) == ("sdpa", "as asked")
    assert choice.provider is not None
    result = attended(case, choice.provider, [True, False, True, False])
    np.testing.assert_allclose(result, case.expected(), rtol=0, atol=2e-5)


@pytest.mark.parametrize("change", [{}, {"window": 24}, {"softcap": 3.0}], ids=["plain", "window", "cap"])
@pytest.mark.parametrize(("name", "block_size"), [("flashinfer", 16), ("flash_attn", 256)])
def test_libraries_read_the_cache_in_place(
    monkeypatch: pytest.MonkeyPatch, name: str, block_size: int, change: dict[str, Any]
) -> None:
    functions = {
        "BatchPrefillWithPagedKVCacheWrapper": PagedPrefill,
        "flash_attn_varlen_func": flash_attn_varlen_func,
    }
    stand_in(monkeypatch, name, **functions)
    shape = replace(SHAPE, **change)
    case = paged_case(
        np.random.default_rng(5), [(1, 9), (20, 70), (2, 5), (33, 33)], shape, block_size=block_size, dtype="bf16"
    )
    choice = choose_prompts("auto", [CachedLayer(shape, block_size, torch.bfloat16)], DEVICE)
    assert choice.name == name
    assert "right in a trial" in choice.reason
    assert choice.provider is not None
    result = attended(case, choice.provider, [False, True, False, True])
    np.testing.assert_allclose(result, case.expected(), rtol=0, atol=3e-2)


def test_a_step_is_planned_once_for_all_layers_of_a_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(monkeypatch, "flashinfer", BatchPrefillWithPagedKVCacheWrapper=PagedPrefill)
    provider = choose_prompts("flashinfer", [LAYER], DEVICE).provider
    assert provider is not None
    case = paged_case(np.random.default_rng(5), [(20, 20)], SHAPE, dtype="bf16")
    plan = tile_plan(case.inputs, 2, 128, elsewhere_B=np.ones(1, bool))
    arrays = plan.arrays | {"tables": case.inputs.block_tables_BX, "slots": case.inputs.slots_T}
    sent = {name: torch.from_numpy(array).to(DEVICE) for name, array in arrays.items()}
    before = PagedPrefill.num_plans
    for _ in range(2):
        rows = plan.on_device(sent).prompts
        assert rows is not None
        for _ in range(3):
            provider.attend(case.q, case.keys.codes, case.values.codes, rows, SHAPE, torch.zeros_like(case.q))
    assert PagedPrefill.num_plans == before + 2


class Wrong(PagedPrefill):
    def run(self, q: Any, paged_kv_cache: tuple[Any, Any]) -> Any:
        return super().run(q, paged_kv_cache) + 1


class Older(PagedPrefill):
    def plan(self) -> None:  # type: ignore[override]
        raise AssertionError("not reached")


REFUSED = {
    "not installed": {},
    "it computes other numbers": {"BatchPrefillWithPagedKVCacheWrapper": Wrong},
    "a trial failed (TypeError": {"BatchPrefillWithPagedKVCacheWrapper": Older},
    "a trial failed (AttributeError": {"another_function": 1},
}


@pytest.mark.parametrize("words", REFUSED)
def test_what_does_not_run_is_not_chosen_and_the_reason_is_kept(monkeypatch: pytest.MonkeyPatch, words: str) -> None:
    if REFUSED[words]:
        stand_in(monkeypatch, "flashinfer", **REFUSED[words])
    choice = choose_prompts("flashinfer", [LAYER], DEVICE)
    assert choice.name == "triton"
    assert words in choice.reason
    choice = choose_prompts("auto", [LAYER], DEVICE)
    assert choice.name == "sdpa"
    assert words in choice.reason


def test_what_a_cache_or_a_model_rules_out() -> None:
    capped = replace(LAYER, shape=replace(SHAPE, softcap=20.0))
    assert "caps no scores" in choose_prompts("sdpa", [LAYER, capped], DEVICE).reason
    assert choose_prompts("auto", [capped], DEVICE).name == "triton"
    assert choose_prompts("triton", [LAYER], DEVICE).reason == "as asked"


def test_libraries_say_what_they_do_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(monkeypatch, "flash_attn", flash_attn_varlen_func=flash_attn_varlen_func)
    assert "--block-size 256" in choose_prompts("flash_attn", [LAYER], DEVICE).reason
    wide = replace(LAYER, block_size=256, dtype=torch.float32)
    assert "not of float32" in choose_prompts("flash_attn", [wide], DEVICE).reason
    stand_in(monkeypatch, "flashinfer", BatchPrefillWithPagedKVCacheWrapper=PagedPrefill)
    assert (
        "not 80" in choose_prompts("flashinfer", [replace(LAYER, shape=replace(SHAPE, head_dim=80))], DEVICE).reason
    )


def test_a_library_that_was_asked_for_has_to_be_there() -> None:
    with pytest.raises(ConfigError, match="pip install flashinfer-python"):
        CudaBackend("cuda" if HAS_DEVICE else "cpu", attention="flashinfer")
    with pytest.raises(ConfigError, match="attention_backend triton is for GPUs"):
        make_backend(EngineConfig(device="cpu", attention_backend="triton"))
    with pytest.raises(ConfigError, match="attention_backend must be one of auto, triton"):
        EngineConfig(attention_backend="xformers")  # type: ignore[arg-type]


@pytest.mark.parametrize("capability", [(8, 0), (8, 6), (8, 9), (9, 0), (12, 0)])
@pytest.mark.parametrize(("heads", "groups", "dim"), [(32, 8, 128), (32, 32, 128), (8, 2, 64), (64, 8, 256)])
def test_torch_takes_prompts_from_where_the_modelled_times_cross(
    capability: tuple[int, int], heads: int, groups: int, dim: int
) -> None:
    """Each side added up again, for a prompt one row shorter and for the first that is worth it."""
    rates = rates_of(capability)

    def is_faster(rows: int) -> bool:
        products = 4 * heads * dim * rows * rows / 2  # scores and sums, half of them masked
        copied = 2 * 2 * 2 * rows * groups * dim + 2 * 2 * rows * heads * dim  # read and written, two bytes each
        ours = products / (0.50 * rates.peak)
        return products / (0.65 * rates.peak) + copied / (0.8 * rates.bandwidth) + 4 * 2e-6 < ours

    least = rows_worth_copying(AttentionShape(heads, groups, dim, 1.0), rates)
    assert is_faster(least + 1)
    assert not is_faster(least - 1)
    assert not is_faster(512)  # a default chunk


def test_the_choice_says_from_where_on() -> None:
    choice = choose_prompts("auto", [LAYER, replace(LAYER, shape=AttentionShape(8, 8, 64, 1.0))], DEVICE)
    if choice.name == "sdpa":
        assert choice.provider is not None
        assert f"for prompts of {choice.provider.least_rows} tokens or more" in choice.reason
        assert "not measured" in choice.reason
