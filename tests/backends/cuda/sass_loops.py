"""The loops of a compiled kernel's machine code (SASS, as nvdisasm prints it), and what an iteration does.

Only loops that hold no other loop: that is where a kernel spends its time. Counts are of a thread, or of a warp where
an instruction is a warp's; an instruction whose predicate is off is counted as well.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass

LABEL = re.compile(r"^\s*(\.L_x_\d+):")
INSTRUCTION = re.compile(r"^\s*/\*[0-9a-f]+\*/\s+(.*?)\s*;")
PREDICATE = re.compile(r"^@!?U?P\w+\s+")
BRANCH = re.compile(r"\bBRA\b.*`\((\.L_x_\d+)\)")
MATRIX = re.compile(r"^([HIQ])GMMA\.(?:SP\.)?(\d+)x(\d+)x(\d+)")
SMALL_MATRIX = re.compile(r"^[HI]MMA\.(?:SP\.)?(\d+)")
SMALL_SHAPES = {"16816": (16, 8, 16), "1688": (16, 8, 8), "16832": (16, 8, 32), "884": (8, 8, 4)}

# The first that begins an opcode names its class.
CLASSES = (
    ("warpgroup matrix", ("HGMMA", "IGMMA", "QGMMA")),
    ("matrix", ("HMMA", "IMMA", "DMMA", "BMMA")),
    ("to shared", ("LDGSTS", "UTMALDG", "UBLKCP")),
    ("global load", ("LDG.",)),
    ("global store", ("STG", "RED", "ATOM")),
    ("spill", ("LDL", "STL")),
    ("matrix load", ("LDSM",)),
    ("shared", ("LDS", "STS", "ATOMS")),
    ("special", ("MUFU",)),
    ("pack", ("F2FP",)),
    ("conversion", ("F2F", "I2F", "F2I", "I2I", "F2IP", "I2FP")),
    ("float", ("FFMA", "FMUL", "FADD", "HFMA2", "HADD2", "HMUL2", "FSWZ")),
    ("multiply", ("IMAD",)),
    ("integer", ("IADD", "VIADD", "LEA", "LOP", "SHF", "PRMT", "ISETP", "SEL", "FMNMX", "FSEL", "FSETP", "IMNMX",
                 "VIMNMX", "PLOP", "P2R", "R2P", "IABS", "HMNMX", "HSET", "SGXT", "BMSK", "MOV", "CS2R", "VOTE")),
    ("shuffle", ("SHFL",)),
    ("uniform", ("U", "R2U", "S2U")),
    ("barrier", ("BAR", "DEPBAR", "LDGDEPBAR", "WARPGROUP", "MEMBAR", "FENCE", "SYNCS", "ERRBAR", "WARPSYNC")),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Loop:
    """Opcodes of an iteration, and how far asynchronous copies may run ahead: `groups` are closed in an iteration,
    `pending` of them may still be under way when it begins to compute; None where nothing is waited for."""

    opcodes: Counter[str]
    groups: int
    pending: int | None

    @property
    def num_instructions(self) -> int:
        return self.opcodes.total()

    def classes(self) -> Counter[str]:
        counts: Counter[str] = Counter()
        for opcode, count in self.opcodes.items():
            counts[class_of(opcode)] += count
        return counts

    @property
    def loaded_bytes(self) -> int:
        """From the device's memory, by a thread."""
        return sum(
            count * width_of(opcode)
            for opcode, count in self.opcodes.items()
            if opcode.startswith(("LDG.", "LDGSTS"))
        )

    @property
    def async_bytes(self) -> int:
        """Of these, by copies to shared memory."""
        return sum(count * width_of(opcode) for opcode, count in self.opcodes.items() if opcode.startswith("LDGSTS"))

    @property
    def shared_bytes(self) -> int:
        """Through shared memory by loads, stores and copies of a thread; what tensor cores read there by themselves
        is not among it."""
        widths = (
            count * (16 if opcode.endswith(".4") else 8 if opcode.endswith(".2") else width_of(opcode))
            for opcode, count in self.opcodes.items()
            if opcode.startswith(("LDS", "STS", "LDGSTS"))
        )
        return sum(widths)

    def matrix_operations(self, kind: str) -> int:
        """Multiplications and additions of a warp. `kind`: "warpgroup" or "warp"."""
        found = 0
        for opcode, count in self.opcodes.items():
            group, small = MATRIX.match(opcode), SMALL_MATRIX.match(opcode)
            if group and kind == "warpgroup":
                m, n, k = (int(group[at]) for at in (2, 3, 4))
                found += count * 2 * m * n * k // 4
            elif small and kind == "warp":
                m, n, k = SMALL_SHAPES[small[1]]
                found += count * 2 * m * n * k
        return found

    @property
    def has_8_bit_matrices(self) -> bool:
        return any(opcode.startswith(("IGMMA", "QGMMA", "IMMA")) for opcode in self.opcodes)


def class_of(opcode: str) -> str:
    for name, beginnings in CLASSES:
        if opcode.startswith(beginnings):
            return name
    return "other"


def width_of(opcode: str) -> int:
    """Bytes that a thread loads or stores."""
    for mark, width in ((".128", 16), (".64", 8), (".U16", 2), (".S16", 2), (".U8", 1), (".S8", 1)):
        if mark in opcode:
            return width
    return 4


def innermost_loops(text: str) -> list[Loop]:
    """Of nvdisasm's text, in its order."""
    labels: dict[str, int] = {}
    found: list[str] = []
    for line in text.splitlines():
        label, instruction = LABEL.match(line), INSTRUCTION.match(line)
        if label:
            labels[label[1]] = len(found)
        elif instruction:
            found.append(PREDICATE.sub("", instruction[1]))
    jumps = ((at, BRANCH.search(text)) for at, text in enumerate(found))
    spans = {(labels[jump[1]], at) for at, jump in jumps if jump and labels[jump[1]] < at}
    inner = [
        one for one in spans if not any(one != other and one[0] <= other[0] <= other[1] <= one[1] for other in spans)
    ]
    return [_loop(found[first : last + 1]) for first, last in sorted(inner)]


def _loop(instructions: list[str]) -> Loop:
    waits = [re.match(r"DEPBAR\.LE SB0, 0x([0-9a-f]+)", one) for one in instructions]
    pending = [int(wait[1], 16) for wait in waits if wait]
    opcodes = Counter(one.split()[0] for one in instructions)
    return Loop(opcodes, opcodes["LDGDEPBAR"], min(pending) if pending else None)
