"""How a block encoding's codes and scales lie on the device.

A step is 128 or 256 inputs of a row. Its codes are planes: runs of 32 inputs (q6_k: 16) that share a scale. Word i of
a tile, of 16 bits, holds input i of four planes (of two, where codes have 8 bits), the first in its lowest bits: so a
kernel that loads words has each plane in place after one shift. A fifth and a sixth bit lie in planes of their own.
Memory holds tiles of 64 rows: [rows / 64, steps, tiles of a step, 64, words of a tile], what a program reads at once
in one run. A step's headers (scales, zero points, minima) are 32-bit words [steps, headers of a step, rows]: as wide
as an asynchronous copy asks for, and neighbours for neighbouring rows.

No encoding takes more bits than in its file, but q6_k (212 bytes for 210) and q8_0, q4_0 and q5_0 of an odd number of
blocks, beyond whole steps and whole tiles of rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

TILE_ROWS = 64

# What a header word holds: "zero" f16 scale and u8 zero point of a group; "pair" f16 scales of two groups; "minimum"
# f16 scale and minimum of a group; "k" the 16 bytes in front of q4_k's and q5_k's blocks; "q6_k" 16 int8 scales and
# the f16 scale of all.
HeaderKind = Literal["zero", "pair", "minimum", "k", "q6_k"]


@dataclass(frozen=True, slots=True)
class CodeLayout:
    """`zero`: the code of 0 where no header says; `step` and `plane` in inputs; `group`: inputs of a scale."""

    headers: HeaderKind
    low_bits: int
    high_bits: int
    zero: int
    group: int
    step: int
    plane: int = 32

    @property
    def bits(self) -> int:
        return self.low_bits + self.high_bits

    @property
    def planes(self) -> int:
        """Of a word."""
        return 16 // self.low_bits

    @property
    def tiles(self) -> int:
        """Of words, in a step."""
        return self.step // (self.planes * self.plane)

    @property
    def groups(self) -> int:
        """Of a step."""
        return self.step // self.group

    @property
    def num_headers(self) -> int:
        """Words of a step."""
        of_blocks = {"pair": self.groups // 2, "k": 4, "q6_k": 5}
        return of_blocks.get(self.headers, self.groups)


LAYOUTS: dict[str, CodeLayout] = {
    "int4_g32": CodeLayout("zero", 4, 0, 8, 32, 128),
    "int4_g64": CodeLayout("zero", 4, 0, 8, 64, 128),
    "int4_g128": CodeLayout("zero", 4, 0, 8, 128, 128),
    "q4_0": CodeLayout("pair", 4, 0, 8, 32, 128),
    "q8_0": CodeLayout("pair", 8, 0, 128, 32, 128),
    "q4_1": CodeLayout("minimum", 4, 0, 0, 32, 128),
    "q5_0": CodeLayout("pair", 4, 1, 16, 32, 256),
    "q5_1": CodeLayout("minimum", 4, 1, 0, 32, 256),
    "q4_k": CodeLayout("k", 4, 0, 0, 32, 256),
    "q5_k": CodeLayout("k", 4, 1, 0, 32, 256),
    "q6_k": CodeLayout("q6_k", 4, 2, 32, 16, 256, plane=16),
}
