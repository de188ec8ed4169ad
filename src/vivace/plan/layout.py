"""Bytes of a matrix: as a backend packs it, and as a file or a GPU holds it.

Ours are those of csrc/linear/geometry.h: blocks of 16 outputs, in each a row of super-blocks of 64, 128 or 256 inputs
that hold their scales in whole cache lines. Files and GPUs hold blocks along the rows (`formats.tensor.ENCODINGS`).
"""

from __future__ import annotations

from dataclasses import dataclass

from vivace.core.errors import ConfigError
from vivace.core.nearest_name import nearest_name
from vivace.formats.tensor import ENCODINGS, ROW_HEADER_BYTES

OUTPUT_BLOCK = 16
LINE_BYTES = 64


@dataclass(frozen=True, slots=True)
class SuperBlock:
    """Inputs of a super-block, bits of a code, and bytes of the scales in front of its codes."""

    inputs: int
    code_bits: int
    scale_bytes: int

    @property
    def num_bytes(self) -> int:
        return self.scale_bytes + self.inputs * OUTPUT_BLOCK * self.code_bits // 8


SUPER_BLOCKS: dict[str, SuperBlock] = {
    "q8_0": SuperBlock(64, 8, 64),
    "q4_0": SuperBlock(64, 4, 64),
    "q4_1": SuperBlock(64, 4, 128),
    "q5_0": SuperBlock(64, 5, 64),
    "q5_1": SuperBlock(64, 5, 128),
    "q4_k": SuperBlock(256, 4, 320),
    "q5_k": SuperBlock(256, 5, 320),
    "q6_k": SuperBlock(256, 6, 320),
    "int4_g32": SuperBlock(128, 4, 192),
    "int4_g64": SuperBlock(64, 4, 64),
    "int4_g128": SuperBlock(128, 4, 64),
}
FP8 = "fp8_channel"  # of GPUs alone: the CPU backend holds such weights in 16 bits


def packed_bytes(layout: str, rows: int, columns: int) -> int:
    """Bytes of a matrix [rows, columns] in the CPU backend."""
    return -(-rows // OUTPUT_BLOCK) * _block_bytes(layout, columns)


def stored_bytes(layout: str, rows: int, columns: int) -> int:
    """Bytes of the same matrix in a file, and about those on a GPU."""
    block_elements, block_bytes = ENCODINGS[layout]
    return rows * (ROW_HEADER_BYTES.get(layout, 0) + -(-columns // block_elements) * block_bytes)


def fits_columns(layout: str, columns: int) -> bool:
    """Whether rows of so many columns are whole blocks."""
    return columns % ENCODINGS[layout][0] == 0


def _block_bytes(layout: str, columns: int) -> int:
    """Of 16 outputs."""
    match layout:
        case "f32":
            return columns * 64
        case "f16" | "bf16":
            return (columns + 1) // 2 * 64
        case "int8_channel" | "int8_outlier":
            return LINE_BYTES + (columns + 3) // 4 * LINE_BYTES
    if layout not in SUPER_BLOCKS:
        known = ("f32", "f16", "bf16", "int8_channel", "int8_outlier", *SUPER_BLOCKS)
        raise ConfigError(f"no CPU kernel reads weights as {layout!r}{nearest_name(layout, known)}")
    block = SUPER_BLOCKS[layout]
    return -(-columns // block.inputs) * block.num_bytes
