"""Machines to plan for: figures of their makers' data sheets, with the source of each row.

Rates are peaks: memory as the data sheet gives it, arithmetic dense (without sparsity) and, for tensor cores, with
float32 sums. Processors are in plan/processors.py. What is reached of a peak is an assumption until somebody measures
it: `GPU_EFFICIENCY`, `CPU_EFFICIENCY` and `APPLE_EFFICIENCY`, shown with every plan.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from vivace.core.errors import ConfigError
from vivace.core.nearest_name import nearest_name
from vivace.plan.machine import Efficiency, Machine
from vivace.plan.processors import APPLE_PROCESSORS, PROCESSORS, ProcessorSheet

GB = 10**9
TERA = 10**12

GPU_EFFICIENCY = Efficiency(
    basis="assumed for GPUs: 80% of the bandwidth for weights, 65% for keys and values, 55% of the dense peak for "
    "products, 35% for attention, 0.25 ms and 3 us an operation of overhead a step, 0.1 ms a request and "
    "0.4 us a prompt token",
    bandwidth={"": 0.80},
    kv_bandwidth=0.65,
    arithmetic=0.55,
    attention_arithmetic=0.35,
    row_share=0.7,
    step_s=250e-6,
    op_s=3e-6,
    product_op_s=3e-6,
    attention_keys=16,
    sequence_s=2e-6,
    logit_s=5e-12,
)
CPU_EFFICIENCY = Efficiency(
    basis="assumed for processors, after our kernels on two cores of Zen 4: 80% of the bandwidth for weights, 60% "
    "for keys and values, 60% of the vector peak for products, 35% for attention, 0.1 ms and 5 us an operation of "
    "overhead a step, 0.1 ms a request and 0.4 us a prompt token",
    bandwidth={"": 0.80},
    kv_bandwidth=0.60,
    arithmetic=0.60,
    attention_arithmetic=0.35,
    row_share=0.8,
    step_s=100e-6,
    op_s=5e-6,
    product_op_s=5e-6,
    attention_keys=48,
    sequence_s=2e-6,
    logit_s=2e-11,
)
APPLE_EFFICIENCY = replace(
    CPU_EFFICIENCY,
    basis="assumed for Apple's processors, of which Vivace uses the cores alone: 60% of the chip's bandwidth (the "
    "cores of an M1 Max read some 240 of 400 GB/s), the rest as for other processors",
    bandwidth={"": 0.60},
    kv_bandwidth=0.45,
)


NO_ARM = "Vivace has no kernels for ARM yet: this is what kernels like those for x86 would reach"


@dataclass(frozen=True, slots=True)
class Sheet:
    """A GPU's data sheet: memory in GB, bandwidth in GB/s, peaks in 10^12 operations a second, watts."""

    title: str
    memory_gb: float
    gb_per_s: float
    peaks: dict[str, float]
    tdp_w: float
    source: str


GPUS: dict[str, Sheet] = {
    "b200": Sheet(
        "NVIDIA B200 SXM",
        180,
        8000,
        {"f32": 75, "bf16": 2250, "f16": 2250, "fp8": 4500, "int8": 4500},
        1000,
        "NVIDIA HGX B200 and DGX B200 data sheets, 2024-2025 (per GPU, sparse figures halved)",
    ),
    "h200": Sheet(
        "NVIDIA H200 SXM",
        141,
        4800,
        {"f32": 67, "bf16": 989, "f16": 989, "fp8": 1979, "int8": 1979},
        700,
        "NVIDIA H200 Tensor Core GPU data sheet, 2024 (sparse figures halved)",
    ),
    "h100": Sheet(
        "NVIDIA H100 SXM 80 GB",
        80,
        3350,
        {"f32": 67, "bf16": 989, "f16": 989, "fp8": 1979, "int8": 1979},
        700,
        "NVIDIA H100 Tensor Core GPU data sheet, 2023 (sparse figures halved)",
    ),
    "h100-pcie": Sheet(
        "NVIDIA H100 PCIe 80 GB",
        80,
        2000,
        {"f32": 51, "bf16": 756, "f16": 756, "fp8": 1513, "int8": 1513},
        350,
        "NVIDIA H100 PCIe product brief PB-11133, 2022, and H100 data sheet, 2023 (sparse figures halved)",
    ),
    "a100-80": Sheet(
        "NVIDIA A100 SXM 80 GB",
        80,
        2039,
        {"f32": 19.5, "bf16": 312, "f16": 312, "int8": 624},
        400,
        "NVIDIA A100 Tensor Core GPU data sheet, 2021",
    ),
    "a100-40": Sheet(
        "NVIDIA A100 SXM 40 GB",
        40,
        1555,
        {"f32": 19.5, "bf16": 312, "f16": 312, "int8": 624},
        400,
        "NVIDIA A100 Tensor Core GPU data sheet, 2020",
    ),
    "l40s": Sheet(
        "NVIDIA L40S",
        48,
        864,
        {"f32": 91.6, "bf16": 362, "f16": 362, "fp8": 733, "int8": 733},
        350,
        "NVIDIA L40S data sheet, 2023 (dense column)",
    ),
    "l4": Sheet(
        "NVIDIA L4",
        24,
        300,
        {"f32": 30.3, "bf16": 121, "f16": 121, "fp8": 242, "int8": 242},
        72,
        "NVIDIA L4 Tensor Core GPU data sheet, 2023 (sparse figures halved)",
    ),
    "a10": Sheet(
        "NVIDIA A10",
        24,
        600,
        {"f32": 31.2, "bf16": 125, "f16": 125, "int8": 250},
        150,
        "NVIDIA A10 Tensor Core GPU data sheet, 2021",
    ),
    "a10g": Sheet(
        "NVIDIA A10G",
        24,
        600,
        {"f32": 31.5, "bf16": 70, "f16": 70, "int8": 140},
        300,
        "NVIDIA A10G data sheet, 2021, for AWS G5 (dense column)",
    ),
    "rtx6000-ada": Sheet(
        "NVIDIA RTX 6000 Ada",
        48,
        960,
        {"f32": 91.1, "bf16": 364, "f16": 364, "fp8": 728, "int8": 728},
        300,
        "NVIDIA RTX 6000 Ada Generation data sheet, 2023 (sparse figures halved)",
    ),
    "t4": Sheet(
        "NVIDIA T4",
        16,
        320,
        {"f32": 8.1, "f16": 65, "int8": 130},
        70,
        "NVIDIA T4 Tensor Core GPU data sheet, 2019",
    ),
    "rtx4090": Sheet(
        "NVIDIA GeForce RTX 4090",
        24,
        1008,
        {"f32": 82.6, "bf16": 165.2, "f16": 165.2, "fp8": 330.3, "int8": 660.6},
        450,
        "NVIDIA Ada GPU Architecture whitepaper, 2022, appendix A (16-bit and fp8 with float32 sums)",
    ),
    "rtx5090": Sheet(
        "NVIDIA GeForce RTX 5090",
        32,
        1792,
        {"f32": 104.8, "bf16": 209.5, "f16": 209.5, "fp8": 419, "int8": 838},
        575,
        "NVIDIA RTX Blackwell GPU Architecture whitepaper, 2025 (16-bit and fp8 with float32 sums, dense)",
    ),
    "rtx3090": Sheet(
        "NVIDIA GeForce RTX 3090",
        24,
        936,
        {"f32": 35.6, "bf16": 71, "f16": 71, "int8": 284},
        350,
        "NVIDIA Ampere GA102 GPU Architecture whitepaper, 2020 (16-bit with float32 sums)",
    ),
    "mi300x": Sheet(
        "AMD Instinct MI300X",
        192,
        5300,
        {"f32": 163.4, "bf16": 1307, "f16": 1307, "fp8": 2615, "int8": 2615},
        750,
        "AMD Instinct MI300X accelerator data sheet, 2023 (dense column)",
    ),
}

NAMES = (*GPUS, *PROCESSORS, *APPLE_PROCESSORS)


def hardware(name: str) -> Machine:
    """A machine of the table by its short name. Raises `ConfigError` naming the nearest one."""
    key = name.lower().replace("_", "-")
    if key in GPUS:
        return _gpu(key, GPUS[key])
    if key in PROCESSORS:
        return _processor(key, PROCESSORS[key], CPU_EFFICIENCY)
    if key in APPLE_PROCESSORS:
        return _processor(key, APPLE_PROCESSORS[key], APPLE_EFFICIENCY)
    raise ConfigError(f"no machine {name!r} in the table{nearest_name(key, NAMES)} (`this` is the one you are on)")


def _gpu(name: str, sheet: Sheet) -> Machine:
    return Machine(
        name=name,
        title=sheet.title,
        kind="gpu",
        memory_bytes=int(sheet.memory_gb * GB),
        read_bytes_per_s=sheet.gb_per_s * GB,
        operations_per_s={unit: peak * TERA for unit, peak in sheet.peaks.items()},
        source=sheet.source,
        efficiency=GPU_EFFICIENCY,
        tdp_w=sheet.tdp_w,
        runtime_bytes=GB,  # of a CUDA context with its libraries
    )


def _processor(name: str, sheet: ProcessorSheet, efficiency: Efficiency) -> Machine:
    cycles = sheet.cores * sheet.ghz * GB
    return Machine(
        name=name,
        title=sheet.title,
        kind="cpu",
        memory_bytes=int(sheet.memory_gb * GB),
        read_bytes_per_s=sheet.gb_per_s * GB,
        operations_per_s={unit: cycles * count for unit, count in sheet.operations_a_cycle.items()},
        source=sheet.source,
        efficiency=efficiency,
        tdp_w=sheet.tdp_w,
        num_cores=sheet.cores,
        caveat=NO_ARM if sheet.is_arm else "",
    )
