"""Machines to plan for: figures of their makers' data sheets, with the source of each row.

Rates are peaks: memory as the data sheet gives it, arithmetic dense (without sparsity) and, for tensor cores, with
float32 sums. Makers of processors give no arithmetic peaks: there it is cores x base clock x operations a cycle of
the vector units that our kernels use, which leaves out matrix extensions and turbo clocks. What is reached of a peak
is an assumption until somebody measures it: `GPU_EFFICIENCY` and `CPU_EFFICIENCY`, shown with every plan.
"""

from __future__ import annotations

from dataclasses import dataclass

from vivace.core.errors import ConfigError
from vivace.core.nearest_name import nearest_name
from vivace.plan.machine import Efficiency, Machine

GB = 10**9
TERA = 10**12

GPU_EFFICIENCY = Efficiency(
    basis="assumed for GPUs: 80% of the bandwidth for weights, 65% for keys and values, 55% of the dense peak for "
    "products, 35% for attention, 0.25 ms and 3 us an operation of overhead a step",
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
    "overhead a step",
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


@dataclass(frozen=True, slots=True)
class Sheet:
    """A GPU's data sheet: memory in GB, bandwidth in GB/s, peaks in 10^12 operations a second, watts."""

    title: str
    memory_gb: float
    gb_per_s: float
    peaks: dict[str, float]
    tdp_w: float
    source: str


@dataclass(frozen=True, slots=True)
class ProcessorSheet:
    """One socket: cores, base clock in GHz, bandwidth in GB/s of all memory channels, operations a core and cycle by
    type, memory in GB as commonly equipped (the maker gives a maximum only), watts where published."""

    title: str
    cores: int
    ghz: float
    gb_per_s: float
    operations_a_cycle: dict[str, int]
    memory_gb: float
    tdp_w: float | None
    source: str


# Two 256-bit (Zen 4) or 512-bit (Zen 5) multiply-add units; bf16 dot products are twice, int8 four times the rate of
# float32. On a Zen 4 of 2 cores we measured 236, 465 and 931 GOP/s: 3.7 GHz x 32, 64 and 128.
ZEN_4 = {"f32": 32, "bf16": 64, "int8": 128}
ZEN_5 = {"f32": 64, "bf16": 128, "int8": 256}
# Four 128-bit multiply-add units, or two of 256 bit; bf16 and int8 matrix instructions four and eight times that.
NEOVERSE = {"f32": 32, "bf16": 128, "int8": 256}

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

PROCESSORS: dict[str, ProcessorSheet] = {
    "epyc-9654": ProcessorSheet(
        "AMD EPYC 9654 (Genoa), one socket",
        96,
        2.4,
        460.8,
        ZEN_4,
        384,
        360,
        "AMD EPYC 9004 Series data sheet, 2022: 12 channels of DDR5-4800, base clock",
    ),
    "epyc-9335": ProcessorSheet(
        "AMD EPYC 9335 (Turin), one socket",
        32,
        3.0,
        614.4,
        ZEN_5,
        384,
        None,
        "AMD EPYC 9005 Series processors, 2024: 12 channels of DDR5-6400, base clock",
    ),
    "ryzen-7950x": ProcessorSheet(
        "AMD Ryzen 9 7950X",
        16,
        4.5,
        83.2,
        ZEN_4,
        64,
        170,
        "AMD Ryzen 9 7950X product page, 2022: 2 channels of DDR5-5200, base clock",
    ),
    "ryzen-9950x": ProcessorSheet(
        "AMD Ryzen 9 9950X",
        16,
        4.3,
        89.6,
        ZEN_5,
        64,
        170,
        "AMD Ryzen 9 9950X product page, 2024: 2 channels of DDR5-5600, base clock",
    ),
    "graviton3": ProcessorSheet(
        "AWS Graviton3, one socket",
        64,
        2.6,
        307.2,
        NEOVERSE,
        128,
        None,
        "WikiChip, AWS Graviton3, 2022: 8 channels of DDR5-4800",
    ),
    "graviton4": ProcessorSheet(
        "AWS Graviton4, one socket",
        96,
        2.8,
        537.6,
        NEOVERSE,
        768,
        None,
        "AWS re:Invent announcement, 2023, and The Next Platform, 2024: 12 channels of DDR5-5600",
    ),
}

NAMES = (*GPUS, *PROCESSORS)


def hardware(name: str) -> Machine:
    """A machine of the table by its short name. Raises `ConfigError` naming the nearest one."""
    key = name.lower().replace("_", "-")
    if key in GPUS:
        return _gpu(key, GPUS[key])
    if key in PROCESSORS:
        return _processor(key, PROCESSORS[key])
    raise ConfigError(f"no machine {name!r} in the table{nearest_name(key, NAMES)}; `this` is the one you are on")


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


def _processor(name: str, sheet: ProcessorSheet) -> Machine:
    cycles = sheet.cores * sheet.ghz * GB
    return Machine(
        name=name,
        title=sheet.title,
        kind="cpu",
        memory_bytes=int(sheet.memory_gb * GB),
        read_bytes_per_s=sheet.gb_per_s * GB,
        operations_per_s={unit: cycles * count for unit, count in sheet.operations_a_cycle.items()},
        source=sheet.source,
        efficiency=CPU_EFFICIENCY,
        tdp_w=sheet.tdp_w,
        num_cores=sheet.cores,
    )
