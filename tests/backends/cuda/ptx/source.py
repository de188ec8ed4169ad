"""A kernel's PTX as instructions in basic blocks, with a register's number for each name."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

RAW = {8: np.uint8, 16: np.uint16, 32: np.uint32, 64: np.uint64}
COMMENT = re.compile(r"//[^\n]*")
DEBUG_LINE = re.compile(r"^\s*\.(loc|file|pragma)[^\n]*$", re.MULTILINE)
LABEL = re.compile(r"\s*([$\w]+):")
DECLARATION = re.compile(r"\.reg\s+\.(\w+)\s+(.*)", re.DOTALL)
PREDICATE = re.compile(r"@(!?)([%\w]+)\s+(.*)", re.DOTALL)
SPECIAL = re.compile(r"%(n?ctaid|n?tid)\.[xyz]$|%(laneid|warpid)$")


class PtxError(Exception):
    """What a device would do wrong, or what is not supported, with the instruction's text."""


@dataclass(frozen=True)
class Register:
    index: int
    type: type  # numpy's, as the register is kept


@dataclass(frozen=True)
class Immediate:
    """`bits`: of a hexadecimal float, else the integer."""

    value: int
    is_float: bool = False


@dataclass(frozen=True)
class Special:
    name: str


@dataclass(frozen=True)
class Vector:
    parts: tuple[Operand, ...]


@dataclass(frozen=True)
class Address:
    base: Operand
    offset: int


@dataclass(frozen=True)
class Symbol:
    name: str


Operand = Register | Immediate | Special | Vector | Address | Symbol


@dataclass
class Instruction:
    """`parts`: of the name, cut at dots. `predicate`: the register and whether it is negated."""

    text: str
    parts: tuple[str, ...]
    operands: list[Operand]
    predicate: tuple[Register, bool] | None = None

    def error(self, message: str) -> PtxError:
        return PtxError(f"{self.text}: {message}")


@dataclass
class Block:
    """Instructions of which the last one alone may branch; `labels` of its first one."""

    labels: list[str] = field(default_factory=list)
    instructions: list[Instruction] = field(default_factory=list)


@dataclass
class Source:
    """`parameters`: name and bits of each argument, in order; `registers`: how many."""

    name: str
    parameters: list[tuple[str, int]]
    blocks: list[Block]
    registers: list[type]
    warps: int


class _Registers:
    """Names of nested scopes; a declared family `%r<5>` stands for %r0 to %r4."""

    def __init__(self) -> None:
        self.types: list[type] = []
        self._scopes: list[dict[str, Register]] = []

    def enter(self) -> None:
        self._scopes.append({})

    def leave(self) -> None:
        self._scopes.pop()

    def declare(self, kind: str, names: str) -> None:
        kept = np.bool_ if kind == "pred" else RAW[int(kind[1:])]
        for name in (part.strip() for part in names.split(",")):
            family = re.fullmatch(r"([%\w]+)<(\d+)>", name)
            spelled = [f"{family[1]}{at}" for at in range(int(family[2]))] if family else [name]
            for one in spelled:
                self._scopes[-1][one] = Register(len(self.types), kept)
                self.types.append(kept)

    def find(self, name: str) -> Register | None:
        for scope in reversed(self._scopes):
            if name in scope:
                return scope[name]
        return None


def parse(ptx: str) -> Source:
    """The one kernel of a module."""
    text = DEBUG_LINE.sub("", COMMENT.sub("", ptx))
    entry = re.search(r"\.entry\s+(\w+)\s*\((.*?)\)([^{]*)\{", text, re.DOTALL)
    if entry is None:
        raise PtxError("there is no kernel")
    found = re.findall(r"\.param\s+\.\w(\d+)\s+(?:\.ptr\s+[^,]*?)?(\w+)\s*(?:,|$)", entry[2])
    threads = re.search(r"\.(?:req|max)ntid\s+(\d+)", entry[3])
    registers = _Registers()
    blocks = _blocks(text[entry.end() - 1 :], registers)
    warps = int(threads[1]) // 32 if threads else 0
    return Source(entry[1], [(name, int(bits)) for bits, name in found], blocks, registers.types, warps)


def _blocks(body: str, registers: _Registers) -> list[Block]:
    blocks = [Block()]
    for kind, text in _statements(body):
        if kind == "label":
            if blocks[-1].instructions:
                blocks.append(Block())
            blocks[-1].labels.append(text)
        elif kind == "enter":
            registers.enter()
        elif kind == "leave":
            registers.leave()
        elif declared := DECLARATION.match(text):
            registers.declare(declared[1], declared[2])
        else:
            instruction = _instruction(text, registers)
            blocks[-1].instructions.append(instruction)
            if instruction.parts[0] in ("bra", "ret", "exit"):
                blocks.append(Block())
    return blocks


def _statements(body: str) -> Iterator[tuple[str, str]]:
    """("label" | "enter" | "leave" | "text", what it says), up to the brace that closes the first one."""
    at, depth = 0, 0
    while True:
        while body[at].isspace() or body[at] == ";":
            at += 1
        if body[at] in "{}":
            depth += 1 if body[at] == "{" else -1
            yield ("enter" if body[at] == "{" else "leave"), ""
            at += 1
            if depth == 0:
                return
        elif label := LABEL.match(body, at):
            yield "label", label[1]
            at = label.end()
        else:
            end = body.index(";", at)
            yield "text", " ".join(body[at:end].split())
            at = end + 1


def _instruction(text: str, registers: _Registers) -> Instruction:
    predicate, rest = None, text
    if guarded := PREDICATE.match(text):
        found = registers.find(guarded[2])
        if found is None:
            raise PtxError(f"{text}: no register {guarded[2]}")
        predicate, rest = (found, guarded[1] == "!"), guarded[3]
    name, _, given = rest.partition(" ")
    operands = [_operand(one, registers) for one in _split(given)]
    return Instruction(text, tuple(name.replace("::", ":").split(".")), operands, predicate)


def _split(text: str) -> list[str]:
    """At commas that no bracket encloses."""
    parts, depth, start = [], 0, 0
    for at, letter in enumerate(text):
        depth += (letter in "{[(") - (letter in "}])")
        if letter == "," and depth == 0:
            parts.append(text[start:at])
            start = at + 1
    return [part.strip() for part in (*parts, text[start:]) if part.strip()]


def _operand(text: str, registers: _Registers) -> Operand:
    if text[0] == "{":
        return Vector(tuple(_operand(one, registers) for one in _split(text[1:-1])))
    if "|" in text:
        return Vector(tuple(_operand(one, registers) for one in text.split("|")))
    if text[0] == "[":
        base, _, offset = text[1:-1].replace(" ", "").partition("+")
        return Address(_operand(base, registers), int(offset or "0", 0))
    if (register := registers.find(text)) is not None:
        return register
    if SPECIAL.match(text):
        return Special(text)
    if (number := _immediate(text)) is not None:
        return number
    return Symbol(text)


def _immediate(text: str) -> Immediate | None:
    if match := re.fullmatch(r"0[fF]([0-9a-fA-F]{8})", text):
        return Immediate(int(match[1], 16), True)
    if match := re.fullmatch(r"0[dD]([0-9a-fA-F]{16})", text):
        return Immediate(int(match[1], 16), True)
    if re.fullmatch(r"-?(0[xX][0-9a-fA-F]+|\d+)U?", text):
        return Immediate(int(text.rstrip("U"), 0))
    if re.fullmatch(r"-?\d+\.\d+", text):
        return Immediate(struct.unpack("<I", struct.pack("<f", float(text)))[0], True)
    return None
