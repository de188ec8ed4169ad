"""Who computes the attention of prompts over a cache, and why: what `--attention-backend` decides.

auto   FlashInfer where it is installed and runs; else flash-attn, likewise; else torch's own function for prompts
       that are long and without cached context; else Triton's kernel
NAME   that one where it can, else Triton's kernel
torch  no kernel at all, and no library: whole tensors
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch

from vivace.backends.cuda.kernels.prompt_rows import prompt_arrays, prompt_plan
from vivace.backends.cuda.prompt_attention import (
    CachedLayer,
    FlashAttnPrompts,
    FlashInferPrompts,
    PromptAttention,
    SdpaPrompts,
)
from vivace.backends.cuda.prompt_cost import LAST_CAPABILITY, DeviceRates, rates_of, rows_worth_copying
from vivace.core.config import AttentionBackend
from vivace.core.errors import ConfigError
from vivace.ops import reference
from vivace.ops.backend import StepInputs

PACKAGES = {"flashinfer": "flashinfer-python", "flash_attn": "flash-attn"}
TRIAL_TOLERANCE = 3e-2  # of numbers of the size of 1 in bfloat16


@dataclass(frozen=True, slots=True)
class PromptChoice:
    """`provider`: None where Triton's kernel, or torch, takes prompts too. `reason`: for `vivace doctor`."""

    provider: PromptAttention | None
    reason: str

    @property
    def name(self) -> str:
        return "triton" if self.provider is None else self.provider.name


def check_installed(asked: AttentionBackend) -> None:
    """Raises `ConfigError` where a library was asked for by name that is not there."""
    if asked in PACKAGES and find_spec(asked) is None:
        raise ConfigError(
            f"attention_backend {asked} is not installed: pip install {PACKAGES[asked]}, or leave the option out"
        )


def choose_prompts(asked: AttentionBackend, layers: Sequence[CachedLayer], device: torch.device) -> PromptChoice:
    """For a program that has these kinds of layers."""
    if asked in ("triton", "torch") or not layers:
        return PromptChoice(None, "as asked" if layers else "the program has no attention")
    refusals: list[str] = []
    rates = rates_of(torch.cuda.get_device_capability(device) if device.type == "cuda" else LAST_CAPABILITY)
    least_rows = max(rows_worth_copying(layer.shape, rates) for layer in layers) if asked == "auto" else 1
    for name in ("flashinfer", "flash_attn", "sdpa") if asked == "auto" else (asked,):
        provider, refusal = _provider(name, device, least_rows)
        if provider is not None:
            refusal = next(filter(None, map(provider.reason, layers)), None)
        if provider is not None and refusal is None and name in PACKAGES:
            refusal = next(filter(None, (_trial(provider, layer, device) for layer in layers)), None)
        if provider is not None and refusal is None:
            if asked == name:
                return PromptChoice(provider, "as asked")
            return PromptChoice(provider, "; ".join([_praise(name, least_rows, rates), *refusals]))
        refusals.append(f"{name}: {refusal}")
    return PromptChoice(None, "; ".join(refusals))


def _praise(name: str, least_rows: int, rates: DeviceRates) -> str:
    if name != "sdpa":
        return "installed, and right in a trial"
    return (
        f"for prompts of {least_rows} tokens or more in one step, without cached context: from there on it saves "
        f"more than laying keys and values side by side costs (modelled by the data sheet of {rates.title}, not "
        "measured); triton for the others"
    )


def _provider(name: str, device: torch.device, least_rows: int) -> tuple[PromptAttention | None, str | None]:
    """Or why there is none."""
    if name == "sdpa":
        return SdpaPrompts(least_rows), None
    if find_spec(name) is None:
        return None, "not installed"
    try:
        module: Any = import_module(name)
    except (ImportError, OSError, RuntimeError) as error:
        return None, f"it does not load ({_first_line(error)})"
    made = FlashInferPrompts if name == "flashinfer" else FlashAttnPrompts
    return made(module, device), None


def _trial(provider: PromptAttention, layer: CachedLayer, device: torch.device) -> str | None:
    """What is wrong with it on this device, of this version: compared with the definition on a small prompt."""
    rng, shape, dtype = np.random.default_rng(0), layer.shape, layer.dtype
    context = layer.block_size + (layer.block_size + 1) // 2
    inputs = _trial_step(min(20, context), context)
    size = (2, layer.block_size, shape.num_kv_heads, shape.head_dim)
    keys, values = (torch.from_numpy(rng.standard_normal(size, np.float32)).to(device, dtype) for _ in range(2))
    q = rng.standard_normal((len(inputs.slots_T), shape.num_heads * shape.head_dim), np.float32)
    q_TD = torch.from_numpy(q).to(device, dtype)
    plan = prompt_plan(inputs, np.ones(1, bool))
    arrays = prompt_arrays(plan) | {"slots": inputs.slots_T}
    rows = plan.on_device({name: torch.from_numpy(array).to(device) for name, array in arrays.items()})
    out_TD = torch.zeros_like(q_TD)
    try:
        provider.attend(q_TD, keys, values, rows, shape, out_TD)
        result = out_TD.float().cpu().numpy()
    except Exception as error:  # another library's version may fail in any way, and Triton's kernel is at hand
        return f"a trial failed ({type(error).__name__}: {_first_line(error)})"
    q, k, v = (part.float().cpu().numpy() for part in (q_TD, keys.transpose(1, 2), values.transpose(1, 2)))
    expected = reference.paged_attention(
        q, k, v, inputs.query_starts_B1, inputs.context_lens_B, inputs.block_tables_BX,
        scale=shape.scale, window=shape.window, softcap=shape.softcap,
    )  # fmt: skip
    return None if np.allclose(result, expected, rtol=0, atol=TRIAL_TOLERANCE) else "it computes other numbers"


def _trial_step(num_rows: int, context: int) -> StepInputs:
    """The end of a sequence that lies in blocks 0 and 1."""
    positions_T = np.arange(context - num_rows, context, dtype=np.int32)
    return StepInputs(
        token_ids_T=np.zeros(num_rows, np.int32),
        positions_T=positions_T,
        slots_T=positions_T,
        query_starts_B1=np.array([0, num_rows], np.int32),
        context_lens_B=np.array([context], np.int32),
        block_tables_BX=np.arange(2, dtype=np.int32)[None],
        sampled_rows_S=np.zeros(0, np.int32),
    )


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
