"""Mutates valid GGUF and safetensors files; nothing but ModelFileError may come out of the parsers.

    python tests/formats/fuzz_headers.py --count 500000 --seed 1

A case is known by its format, seed and number, which every failure prints.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from struct import pack

import gguf_bytes as raw

from vivace.core.errors import ModelFileError
from vivace.formats.dequantize import dequantize
from vivace.formats.ggml_types import GGML_TYPES
from vivace.formats.gguf import GGUFFile
from vivace.formats.safetensors import DTYPE_BITS, SafetensorsFile

_MEMORY_LIMIT_BYTES = 1 << 30  # of the command line's process: an allocation that believes a header fails
_EDGES = (0, 1, 2, 31, 32, 33, 127, 128, 255, 256, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**61)
_EDGES += (2**62, 2**63 - 1, 2**63, 2**64 - 32, 2**64 - 1)
_JSON_EDGES = (
    *("null", "true", "-1", "0.5", "1e400", "NaN", "[]", "{}", '""', '"\\ud800"', '"F32"', '"BF16"', "[1]", "[0,0]"),
    *(str(edge) for edge in _EDGES),
    *("9" * 400, "[" * 50, '"__metadata__"', '"shape"', ",", ":", '"'),
)


@dataclass(frozen=True)
class Outcome:
    """How many mutants were refused, and how many were valid files still."""

    refused: int
    accepted: int


def gguf_samples() -> list[bytes]:
    """A file with a vocabulary, one with every tensor type, one with nothing."""
    pairs = (
        raw.pair("general.architecture", raw.STRING, raw.string("llama")),
        raw.pair("general.alignment", raw.UINT32, pack("<I", 32)),
        raw.pair("llama.rope.freq_base", raw.FLOAT32, pack("<f", 1e4)),
        raw.pair("flag", raw.BOOL, b"\1"),
        raw.pair("tokens", raw.ARRAY, raw.array(raw.STRING, [raw.string(text) for text in ("a", "bc", "ü", "")])),
        raw.pair("scores", raw.ARRAY, raw.array(raw.FLOAT32, [pack("<f", score) for score in (0, -1, 2.5)])),
        raw.pair("flags", raw.ARRAY, raw.array(raw.BOOL, [b"\0", b"\1"])),
    )
    tensors, end = [], 0
    for number, kind in GGML_TYPES.items():
        dims = (kind.block_elements, 2) if number % 2 else (kind.block_elements,)
        tensors.append(raw.tensor(f"t.{kind.name}", dims, number, end))
        end += -(-kind.block_bytes * (2 if number % 2 else 1) // 32) * 32
    few = (raw.tensor("w", (4, 2)), raw.tensor("n", (4,), offset=32))
    return [
        raw.gguf(pairs),
        raw.gguf(pairs[:2], tuple(tensors), bytes(end)),
        raw.gguf((), few, bytes(64)),
        raw.gguf(),
    ]


def safetensors_samples() -> list[bytes]:
    """Tensors of several types with metadata, the same without blanks, and a file with nothing."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for dtype, size, shape in (("F32", 4, [2, 3]), ("BF16", 2, [4]), ("F16", 2, []), ("I64", 8, [2]), ("U8", 1, [0])):
        num_bytes = size
        for dimension in shape:
            num_bytes *= dimension
        header[f"t.{dtype}"] = {"dtype": dtype, "shape": shape, "data_offsets": [end, end + num_bytes]}
        end += num_bytes
    texts = [(json.dumps(header, indent=1), end), (json.dumps(header, separators=(",", ":")) + "   ", end), ("{}", 0)]
    return [pack("<Q", len(text)) + text.encode() + bytes(size) for text, size in texts]


def mutate(sample: bytes, random: Random) -> bytes:
    """One to four random changes of bits, bytes, numbers or spans."""
    blob = bytearray(sample)
    for _ in range(random.randint(1, 4)):
        position = random.randrange(len(blob) + 1)
        choice = random.randrange(7)
        if choice == 0 and position < len(blob):
            blob[position] ^= 1 << random.randrange(8)
        elif choice == 1:
            blob[position : position + 1] = random.randbytes(1)
        elif choice == 2:
            blob[position : position + 8] = pack("<Q", random.choice(_EDGES))
        elif choice == 3:
            blob[position : position + 4] = pack("<I", random.choice(_EDGES) & 0xFFFFFFFF)
        elif choice == 4:
            del blob[position : position + random.choice((1, 4, 8, 40))]
        elif choice == 5:
            start = random.randrange(len(blob) + 1)
            blob[position:position] = blob[start : start + random.choice((1, 8, 40, 100))]
        elif random.random() < 0.3:
            del blob[position:]
    return bytes(blob)


def mutate_safetensors(sample: bytes, random: Random) -> bytes:
    """As `mutate`, or a change of the header's text or of its values; the stated length then mostly stays true."""
    choice = random.randrange(3)
    if choice == 0:
        return mutate(sample, random)
    length = int.from_bytes(sample[:8], "little")
    text, data = sample[8 : 8 + length].decode(), sample[8 + length :]
    text = mutate_text(text, random) if choice == 1 else mutate_values(text, random)
    header = text.encode(errors="surrogatepass")
    stated = len(header) if random.random() < 0.9 else random.choice(_EDGES)
    return pack("<Q", stated) + header + data


def mutate_text(text: str, random: Random) -> str:
    """JSON fragments in place of one to three spans between punctuation: seldom valid JSON."""
    for _ in range(random.randint(1, 3)):
        places = [place for place, letter in enumerate(text) if letter in '[]{},:"']
        if not places:
            break
        start = random.choice(places) + random.randrange(2)
        stop = random.choice([place for place in places if place >= start][:4] or [start])
        text = text[:start] + random.choice(_JSON_EDGES) + text[stop:]
    return text


def mutate_values(text: str, random: Random) -> str:
    """One number, type or shape swapped for another: always valid JSON, seldom a valid header."""
    header = json.loads(text)
    tensors = [value for name, value in header.items() if name != "__metadata__"]
    if tensors:
        tensor = random.choice(tensors)
        key = random.choice(sorted(tensor))
        old = tensor[key]
        if key == "dtype":
            tensor[key] = random.choice(sorted(DTYPE_BITS))
        elif old and random.random() < 0.7:
            place = random.randrange(len(old))
            old[place] = random.choice((*_EDGES, -1, 0.5, True, None, old[place] + 1))
        else:
            tensor[key] = random.choice((random.choice(tensors)[key], [1] * 40, "", 0, old[::-1]))
    return json.dumps(header)


@dataclass(frozen=True)
class Target:
    samples: list[bytes]
    mutate: Callable[[bytes, Random], bytes]
    parse: Callable[[memoryview, str], GGUFFile | SafetensorsFile]


TARGETS = {
    "gguf": Target(gguf_samples(), mutate, GGUFFile.parse),
    "safetensors": Target(safetensors_samples(), mutate_safetensors, SafetensorsFile.parse),
}


def fuzz(format_name: str, count: int, seed: int) -> Outcome:
    """Parses `count` mutants and decodes every tensor of those that are accepted. AssertionError names the case."""
    target = TARGETS[format_name]
    refused = 0
    for number in range(count):
        random = Random((seed << 40) + number)
        mutant = target.mutate(random.choice(target.samples), random)
        try:
            refused += not _is_accepted(target, mutant)
        except Exception as error:
            raise AssertionError(f"{format_name} seed {seed} case {number}: {mutant!r}") from error
    return Outcome(refused, count - refused)


def _is_accepted(target: Target, mutant: bytes) -> bool:
    try:
        tensors = target.parse(memoryview(mutant), "mutant").tensors
    except ModelFileError:
        return False
    for name in tensors:
        try:
            stored = tensors[name]
        except ModelFileError:
            continue
        assert stored.data.nbytes <= len(mutant)
        assert dequantize(stored).shape == stored.shape
    return True


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=500_000, help="mutants of each format")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    warnings.simplefilter("error")
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_LIMIT_BYTES, _MEMORY_LIMIT_BYTES))
    for format_name in TARGETS:
        start = time.monotonic()
        outcome = fuzz(format_name, options.count, options.seed)
        seconds = time.monotonic() - start
        print(f"{format_name}: {options.count} mutants, seed {options.seed}: {outcome}, {seconds:.0f} s", flush=True)


if __name__ == "__main__":
    main()
