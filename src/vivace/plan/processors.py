"""Processors to plan for: one socket each, with the source of each row.

Makers give no arithmetic peaks: there it is cores x base clock x operations a cycle of the vector units that our
kernels use, which leaves out matrix extensions and turbo clocks.
"""

from __future__ import annotations

from dataclasses import dataclass


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
    is_arm: bool = False


# Two 256-bit (Zen 4) or 512-bit (Zen 5) multiply-add units; bf16 dot products are twice, int8 four times the rate of
# float32. On a Zen 4 of 2 cores we measured 236, 465 and 931 GOP/s: 3.7 GHz x 32, 64 and 128.
ZEN_4 = {"f32": 32, "bf16": 64, "int8": 128}
ZEN_5 = {"f32": 64, "bf16": 128, "int8": 256}
# Four 128-bit multiply-add units, or two of 256 bit; bf16 and int8 matrix instructions four and eight times that.
NEOVERSE = {"f32": 32, "bf16": 128, "int8": 256}
# Two 512-bit units; int8 dot products on both, those of bf16 on one. Matrix extensions (AMX) are left out.
INTEL = {"f32": 64, "bf16": 64, "int8": 256}
# Four 128-bit units, with int8 dot products; bf16 and int8 matrix instructions from M2 on. AMX and SME are left out.
APPLE_M1 = {"f32": 32, "int8": 128}
APPLE = {"f32": 32, "bf16": 128, "int8": 256}

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
        is_arm=True,
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
        is_arm=True,
    ),
    "epyc-9755": ProcessorSheet(
        "AMD EPYC 9755 (Turin), one socket",
        128,
        2.7,
        614.4,
        ZEN_5,
        768,
        500,
        "AMD EPYC 9755 product page, 2024: 12 channels of DDR5-6400, base clock",
    ),
    "xeon-8480": ProcessorSheet(
        "Intel Xeon Platinum 8480+ (Sapphire Rapids), one socket",
        56,
        2.0,
        307.2,
        INTEL,
        512,
        350,
        "Intel product specifications, Xeon Platinum 8480+, 2023: 8 channels of DDR5-4800, base clock",
    ),
    "xeon-8592": ProcessorSheet(
        "Intel Xeon Platinum 8592+ (Emerald Rapids), one socket",
        64,
        1.9,
        358.4,
        INTEL,
        512,
        350,
        "Intel product specifications, Xeon Platinum 8592+, 2023: 8 channels of DDR5-5600, base clock",
    ),
    "xeon-6980p": ProcessorSheet(
        "Intel Xeon 6980P (Granite Rapids), one socket",
        128,
        2.0,
        614.4,
        INTEL,
        768,
        500,
        "Intel product specifications, Xeon 6980P, 2024: 12 channels of DDR5-6400, base clock; 844.8 GB/s with "
        "MRDIMM-8800",
    ),
}


def _apple(name: str, cores: int, ghz: float, gb_per_s: float, memory_gb: float, year: int) -> ProcessorSheet:
    """Performance cores and their clock as reviewers measured it; the rest as Apple announced it."""
    return ProcessorSheet(
        f"Apple {name} ({cores} performance cores; the GPU is not used)",
        cores,
        ghz,
        gb_per_s,
        APPLE_M1 if name.startswith("M1") else APPLE,
        memory_gb,
        None,
        f"Apple newsroom, {name}, {year}: bandwidth of the whole chip, largest memory; clock measured by reviewers",
        is_arm=True,
    )


# Largest configurations.
APPLE_PROCESSORS: dict[str, ProcessorSheet] = {
    "m1": _apple("M1", 4, 3.2, 68.3, 16, 2020),
    "m1-pro": _apple("M1 Pro", 8, 3.2, 200, 32, 2021),
    "m1-max": _apple("M1 Max", 8, 3.2, 400, 64, 2021),
    "m1-ultra": _apple("M1 Ultra", 16, 3.2, 800, 128, 2022),
    "m2": _apple("M2", 4, 3.5, 100, 24, 2022),
    "m2-pro": _apple("M2 Pro", 8, 3.5, 200, 32, 2023),
    "m2-max": _apple("M2 Max", 8, 3.7, 400, 96, 2023),
    "m2-ultra": _apple("M2 Ultra", 16, 3.7, 800, 192, 2023),
    "m3": _apple("M3", 4, 4.05, 100, 24, 2023),
    "m3-pro": _apple("M3 Pro", 6, 4.05, 150, 36, 2023),
    "m3-max": _apple("M3 Max", 12, 4.05, 400, 128, 2023),
    "m3-ultra": _apple("M3 Ultra", 24, 4.05, 819, 512, 2025),
    "m4": _apple("M4", 4, 4.4, 120, 32, 2024),
    "m4-pro": _apple("M4 Pro", 10, 4.5, 273, 64, 2024),
    "m4-max": _apple("M4 Max", 12, 4.5, 546, 128, 2024),
}
