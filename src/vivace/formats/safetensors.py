"""safetensors (https://github.com/huggingface/safetensors#format): eight bytes of length, JSON, then the data.

Our own reader, because NumPy has no bfloat16 and the weights must stay views of the mapping. It is a little
stricter than the official one: nothing unknown is passed over, and every byte belongs to exactly one tensor.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from math import prod
from os import PathLike

from vivace.core.errors import ModelFileError
from vivace.formats.json_text import JsonText
from vivace.formats.mapped_file import map_file
from vivace.formats.tensor_table import TensorEntry, TensorTable

MAX_HEADER_BYTES = 100_000_000  # the official reader's limit
MAX_TENSORS = 1 << 18  # 400 bytes each; the largest public checkpoints have 190,000, in a hundred files
MAX_METADATA_CHARS = 16 << 20  # training scripts write some MB
METADATA_KEY = "__metadata__"
# The format's types with the bits of an element; those below in ENCODING_OF_DTYPE can be weights.
DTYPE_BITS = {
    "F4": 4,
    "F6_E2M3": 6,
    "F6_E3M2": 6,
    "BOOL": 8,
    "U8": 8,
    "I8": 8,
    "F8_E4M3": 8,
    "F8_E5M2": 8,
    "F8_E8M0": 8,
    "F8_E4M3FNUZ": 8,
    "F8_E5M2FNUZ": 8,
    "I16": 16,
    "U16": 16,
    "F16": 16,
    "BF16": 16,
    "I32": 32,
    "U32": 32,
    "F32": 32,
    "I64": 64,
    "U64": 64,
    "F64": 64,
    "C64": 64,
}
ENCODING_OF_DTYPE = {"F32": "f32", "F16": "f16", "BF16": "bf16"}
_MAX_DIMENSIONS = 16
_MAX_NAME_LEN = 1024  # keeps messages readable
_MAX_ENTRY_CHARS = 4096  # 16 sizes of 19 digits, and blanks
_METADATA_ENTRY_CHARS = 64  # what an entry costs beside its value
_LENGTH_BYTES = 8
_ENTRY_KEYS = {"dtype", "shape", "data_offsets"}


class SafetensorsFile:
    """Metadata and tensors of one safetensors file."""

    def __init__(self, metadata: Mapping[str, str], tensors: TensorTable) -> None:
        self.metadata = metadata
        self.tensors = tensors

    @classmethod
    def open(cls, path: str | PathLike[str]) -> SafetensorsFile:
        """Maps and checks the file. Raises ModelFileError naming field and offset if it is broken."""
        return cls.parse(map_file(path), path)

    @classmethod
    def parse(cls, buffer: memoryview, path: str | PathLike[str]) -> SafetensorsFile:
        """The same on bytes at hand (format "B"); `path` serves for messages only."""
        data_start = _LENGTH_BYTES + _header_bytes(buffer, path)
        text = JsonText(buffer[_LENGTH_BYTES:data_start], path, _LENGTH_BYTES)
        metadata, entries = _read_header(text, data_start, path)
        _refuse_gaps(entries, data_start, len(buffer), path)
        return cls(metadata, TensorTable(buffer, path, entries))

    def close(self) -> None:
        """Lets go of the file; tensors already handed out stay valid."""
        self.tensors.close()


def _read_header(
    text: JsonText, data_start: int, path: str | PathLike[str]
) -> tuple[dict[str, str], list[TensorEntry]]:
    """Metadata and tensors. Each tensor is checked before the next one is read, so that what lies is soon let go."""
    metadata: dict[str, str] = {}
    entries: list[TensorEntry] = []
    for name in text.members():
        if name == METADATA_KEY:
            metadata = _read_metadata(text, path)
            continue
        if len(entries) == MAX_TENSORS:
            raise ModelFileError(path, f"more than {MAX_TENSORS} tensors", field="header", offset=_LENGTH_BYTES)
        entries.append(_checked_entry(name, text.value(_MAX_ENTRY_CHARS), data_start, path))
    text.end()
    return metadata, entries


def _read_metadata(text: JsonText, path: str | PathLike[str]) -> dict[str, str]:
    def broken(reason: str) -> ModelFileError:
        return ModelFileError(path, reason, field=METADATA_KEY, offset=_LENGTH_BYTES)

    if not text.is_at_object():
        raise broken("metadata must map strings to strings")
    metadata: dict[str, str] = {}
    num_chars = 0
    for name in text.members():
        value = text.value(MAX_METADATA_CHARS, METADATA_KEY)
        if not isinstance(value, str):
            raise broken("metadata must map strings to strings")
        num_chars += len(value) + _METADATA_ENTRY_CHARS
        if num_chars > MAX_METADATA_CHARS:
            raise broken(f"more than {MAX_METADATA_CHARS} characters of metadata")
        metadata[name] = value
    return metadata


def _header_bytes(buffer: memoryview, path: str | PathLike[str]) -> int:
    if len(buffer) < _LENGTH_BYTES:
        raise ModelFileError(path, f"{len(buffer)} bytes are too few for a header", field="header length", offset=0)
    num_bytes = int.from_bytes(buffer[:_LENGTH_BYTES], "little")
    limit = min(MAX_HEADER_BYTES, len(buffer) - _LENGTH_BYTES)
    if num_bytes > limit:
        reason = f"a header of {num_bytes} bytes; at most {limit} are possible: not safetensors, or truncated"
        raise ModelFileError(path, reason, field="header length", offset=0)
    if bytes(buffer[_LENGTH_BYTES : _LENGTH_BYTES + 1]) != b"{":
        raise ModelFileError(path, "the header does not begin with {", field="header", offset=_LENGTH_BYTES)
    return num_bytes


def _checked_entry(name: str, value: object, data_start: int, path: str | PathLike[str]) -> TensorEntry:
    def broken(reason: str) -> ModelFileError:
        return ModelFileError(path, reason, field=name, offset=_LENGTH_BYTES)

    if len(name) > _MAX_NAME_LEN:
        raise ModelFileError(path, f"a name of {len(name)} characters", field=name[:200], offset=_LENGTH_BYTES)
    if not isinstance(value, dict) or set(value) != _ENTRY_KEYS:
        raise broken("a tensor needs dtype, shape and data_offsets, and nothing else")
    dtype, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPE_BITS:
        raise broken(f"dtype {dtype!r:.40} is unknown")
    if not _are_sizes(shape) or len(shape) > _MAX_DIMENSIONS:
        raise broken(f"shape is not a list of at most {_MAX_DIMENSIONS} sizes")
    if not _are_sizes(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise broken("data_offsets are not two rising sizes")
    num_bytes = offsets[1] - offsets[0]
    if prod(shape) * DTYPE_BITS[dtype] != num_bytes * 8:
        raise broken(f"shape {shape} of {dtype} does not fill the {num_bytes} bytes of data_offsets")
    dtype = sys.intern(dtype)
    return TensorEntry(name, dtype, ENCODING_OF_DTYPE.get(dtype), tuple(shape), data_start + offsets[0], num_bytes)


def _are_sizes(value: object) -> bool:
    """Whether it is a list of integers in 0 .. 2^63 - 1 (JSON's true is none)."""
    return isinstance(value, list) and all(type(item) is int and 0 <= item < 2**63 for item in value)


def _refuse_gaps(entries: list[TensorEntry], data_start: int, file_bytes: int, path: str | PathLike[str]) -> None:
    end = data_start
    for entry in sorted(entries, key=lambda entry: (entry.start, entry.num_bytes)):
        if entry.start != end:
            word = "overlaps the tensor before it" if entry.start < end else "leaves a hole before it"
            raise ModelFileError(path, f"data {word}", field=entry.name, offset=entry.start)
        end += entry.num_bytes
        if end > file_bytes:
            reason = f"data ends at {end}, past the end of the file at {file_bytes}; truncated?"
            raise ModelFileError(path, reason, field=entry.name, offset=entry.start)
    if end != file_bytes:
        raise ModelFileError(path, f"{file_bytes - end} bytes after the last tensor belong to none", offset=end)
