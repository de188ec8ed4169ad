"""A GPU of a given kind played by torch's CPU device: programs are recorded, planned and launched as on the device,
but nothing is computed. Numbers are zeros; only what would be compiled is of use (`compile_ahead`)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any
from unittest import mock

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map

from gpu import attention, end_to_end, products, program_bench, row_operations, shapes, timing
from gpu.setting import Setting
from vivace.backends.cuda import backend
from vivace.backends.cuda.backend import CudaBackend
from vivace.backends.cuda.kernels import cache_view, matrix_product, registry
from vivace.ops.backend import MeasuredCeilings

FREE_BYTES = 2 << 30  # for the KV pool of one layer
NATIVE_FP8 = (8, 9)
FUNCTIONS = {
    torch.nn.functional.linear,
    torch.nn.functional.scaled_dot_product_attention,
    torch.matmul,
    torch.mm,
    torch.bmm,
    torch.addmm,
    torch.Tensor.matmul,
    torch.Tensor.__matmul__,
    torch._int_mm,
    torch._scaled_mm,
}


@contextmanager
def dry_run(setting: Setting, capability: tuple[int, int]) -> Iterator[None]:
    """Within it the sections' items may be measured: on one layer of each model, with few copies and tokens."""
    has_fp8 = capability >= NATIVE_FP8
    one_layer = {name: shape | {"num_hidden_layers": 1} for name, shape in shapes.SHAPES.items()}
    ceilings = MeasuredCeilings(read_bytes_per_s=3e12, operations_per_s={"bf16": 8e14})
    with ExitStack() as stack:
        for owner, name, value in (
            (torch, "empty", partial(_zeros, torch.empty, torch.zeros)),  # a token that no kernel wrote is one
            (torch, "empty_like", partial(_zeros, torch.empty_like, torch.zeros_like)),
            (registry, "_complaint", lambda *_: None),
            (registry.KernelRegistry, "set_trial", lambda self, *_: setattr(self, "is_tried", True)),
            (cache_view, "_converts_fp8", lambda *_: has_fp8),
            (matrix_product, "multiplies_fp8", lambda *_: has_fp8),
            (backend, "driver_of", lambda *_: _DryDriver()),
            (CudaBackend, "free_bytes", lambda *_: FREE_BYTES),
            (shapes, "SHAPES", one_layer),
            (timing, "measure_ceilings", lambda *_, **__: ceilings),
            (end_to_end, "OUTPUT_LEN", 3),
            (program_bench, "try_peer", lambda *_: ([], None)),
            *((module, "copies_of", lambda *_: 2) for module in (attention, products, row_operations)),
            *((module, "reference_backend", setting.backend) for module in (attention, products, row_operations)),
        ):
            stack.enter_context(mock.patch.object(owner, name, value))
        stack.enter_context(_NoProducts())
        yield


class _NoProducts(TorchFunctionMode):
    """Zeros of a product's shape, for nothing."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func not in FUNCTIONS or kwargs.get("out") is not None:
            return func(*args, **kwargs) if func not in FUNCTIONS else kwargs["out"]
        with torch._C.DisableTorchFunction():
            shaped = func(*tree_map(_meta, args), **tree_map(_meta, kwargs))
            return torch.zeros(shaped.shape, dtype=shaped.dtype)


def _zeros(empty: Callable[..., Any], zeros: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """torch's own shapes of products ask for empty ones."""
    return (empty if torch.device(kwargs.get("device") or "cpu").type == "meta" else zeros)(*args, **kwargs)


def _meta(value: Any) -> Any:
    return value.to("meta") if isinstance(value, torch.Tensor) else value


class _DryDriver:
    """Captures every graph by running it once, and never replays one."""

    def memory(self) -> tuple[int, int]:
        return FREE_BYTES, 2 * FREE_BYTES

    def release(self) -> None:
        """Nothing is kept."""

    def graph_pool(self) -> Any:
        return None

    def warm_up(self, run: Callable[[], Any], _: int) -> tuple[Any, int]:
        return run(), 0

    def capture(self, run: Callable[[], object], _: Any) -> Callable[[], None]:
        run()
        return lambda: None
