"""What a device reaches at best: memory by copies and sums, its units by square products of torch's libraries."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from vivace.backends.cuda.op_clock import launch_seconds
from vivace.ops.backend import MeasuredCeilings

MEMORY_BYTES = 1 << 30  # of a copy's source: twenty times an H100's second-level cache
PRODUCT_SIZE = 8192
ROUNDS = 10
EIGHT_BITS = {"fp8": torch.float8_e4m3fn, "int8": torch.int8}
DENSE = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}
UNITS = (*DENSE, *EIGHT_BITS)


def measure_ceilings(
    device: torch.device, *, memory_bytes: int = MEMORY_BYTES, size: int = PRODUCT_SIZE, rounds: int = ROUNDS
) -> MeasuredCeilings:
    """Reading is at the speed of the faster of a copy and a sum, of at most a quarter of the memory that is free;
    units that the device or this torch lacks are left out."""
    if device.type == "cuda":
        memory_bytes = min(memory_bytes, torch.cuda.mem_get_info(device)[0] // 4)
    peaks = {unit: product_rate(device, unit, size, rounds) for unit in UNITS}
    return MeasuredCeilings(
        read_bytes_per_s=max(copy_rate(device, memory_bytes, rounds), read_rate(device, memory_bytes, rounds)),
        operations_per_s={unit: peak for unit, peak in peaks.items() if peak is not None},
    )


def copy_rate(device: torch.device, num_bytes: int = MEMORY_BYTES, rounds: int = ROUNDS) -> float:
    """Bytes a second, read and written ones counted."""
    source = torch.empty(num_bytes // 4, dtype=torch.int32, device=device).random_()
    target = torch.empty_like(source)
    return 2 * num_bytes / _median_s(device, partial(target.copy_, source), rounds)


def read_rate(device: torch.device, num_bytes: int = MEMORY_BYTES, rounds: int = ROUNDS) -> float:
    """Bytes a second of a sum over float32 numbers."""
    source = torch.rand((1024, num_bytes // 4096), device=device)
    return num_bytes / _median_s(device, partial(torch.sum, source, 1), rounds)


def product_rate(device: torch.device, unit: str, size: int = PRODUCT_SIZE, rounds: int = ROUNDS) -> float | None:
    """Operations a second of a product of two matrices of random numbers; None where there is no such product."""
    try:
        product = square_product(device, unit, size)
        return 2 * size**3 / _median_s(device, product, rounds)
    except (RuntimeError, NotImplementedError, ValueError):
        return None


def square_product(device: torch.device, unit: str, size: int) -> Callable[[], Tensor]:
    """The largest product that the libraries below torch do with numbers of this kind, ready to run."""
    left, right = (torch.randn((size, size), device=device) for _ in range(2))
    if unit in DENSE:
        return partial(torch.matmul, left.to(DENSE[unit]), right.to(DENSE[unit]).T)
    if unit == "int8":
        codes = [(16 * values).clamp(-127, 127).to(torch.int8) for values in (left, right)]
        return partial(torch._int_mm, codes[0], codes[1].T)
    one = torch.ones((), device=device)
    scaled = partial(torch._scaled_mm, scale_a=one, scale_b=one, out_dtype=torch.bfloat16)
    return partial(scaled, left.to(EIGHT_BITS[unit]), right.to(EIGHT_BITS[unit]).T)


def launch_overhead_s(device: torch.device, rounds: int = 100) -> float:
    """From one small operation to the next in the device's queue: what a kernel costs that does nothing."""
    number = torch.zeros(1, device=device)
    return statistics.median(launch_seconds(device, [partial(number.add_, 1.0)] * rounds))


def _median_s(device: torch.device, run: Callable[[], object], rounds: int) -> float:
    launch_seconds(device, [run] * 2)  # libraries load and choose
    return statistics.median(launch_seconds(device, [run] * rounds))
