"""GGUF, versions 2 and 3, little-endian (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md).

The file is mapped; metadata becomes Python values, tensors become views. Nothing in a header is believed before
it was held against the file's size, so memory stays within a small multiple of the header's own bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from math import prod
from os import PathLike

from vivace.core.errors import ModelFileError
from vivace.formats.ggml_types import GGML_TYPES
from vivace.formats.gguf_metadata import GGUFCursor, MetadataValue
from vivace.formats.mapped_file import map_file
from vivace.formats.tensor_table import TensorEntry, TensorTable

_MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_DEFAULT_ALIGNMENT = 32
_MAX_DIMENSIONS = 4  # GGML_MAX_DIMS
_MAX_KEY_BYTES = 65535  # the specification's limit
_MAX_TENSOR_NAME_BYTES = 1024  # ggml's own is 64 or 128; this only keeps messages readable
_MIN_PAIR_BYTES = 8 + 4 + 1  # key length, value type, the smallest value
_MIN_TENSOR_BYTES = 8 + 4 + 8 + 4 + 8  # name length, number of dimensions, one dimension, type, offset


class GGUFFile:
    """Metadata and tensors of one GGUF file. Shapes are (rows, columns): GGUF's dimensions reversed."""

    def __init__(self, version: int, metadata: Mapping[str, MetadataValue], tensors: TensorTable) -> None:
        self.version = version
        self.metadata = metadata
        self.tensors = tensors

    @classmethod
    def open(cls, path: str | PathLike[str]) -> GGUFFile:
        """Maps and parses the file. Raises ModelFileError naming field and offset if it is broken."""
        return cls.parse(map_file(path), path)

    @classmethod
    def parse(cls, buffer: memoryview, path: str | PathLike[str]) -> GGUFFile:
        """The same on bytes at hand (format "B"); `path` serves for messages only."""
        cursor = GGUFCursor(buffer, path)
        version = _read_version(cursor, buffer, path)
        num_tensors = cursor.count("tensor_count", _MIN_TENSOR_BYTES)
        num_pairs = cursor.count("metadata_kv_count", _MIN_PAIR_BYTES)
        metadata, alignment = _read_metadata(cursor, num_pairs)
        entries, record_offsets = _read_tensor_records(cursor, num_tensors)
        data_start = -(-cursor.position // alignment) * alignment
        placed = [
            _place(entry, offset, data_start, alignment, cursor, len(buffer))
            for entry, offset in zip(entries, record_offsets, strict=True)
        ]
        _refuse_overlap(placed, cursor)
        return cls(version, metadata, TensorTable(buffer, path, placed))

    def close(self) -> None:
        """Lets go of the file; metadata and tensors already handed out stay valid."""
        self.tensors.close()


def _read_version(cursor: GGUFCursor, buffer: memoryview, path: str | PathLike[str]) -> int:
    if bytes(buffer[:4]) != _MAGIC:
        raise ModelFileError(path, "not a GGUF file: it does not begin with GGUF", field="magic", offset=0)
    cursor.advance(4, "magic")
    version = cursor.uint32("version")
    if version in _VERSIONS:
        return version
    if version & 0xFFFF == 0 and version:
        raise cursor.error("a big-endian GGUF file; convert it to little-endian", "version", 4)
    raise cursor.error(f"version {version}; versions 2 and 3 can be read", "version", 4)


def _read_metadata(cursor: GGUFCursor, num_pairs: int) -> tuple[dict[str, MetadataValue], int]:
    metadata: dict[str, MetadataValue] = {}
    alignment = _DEFAULT_ALIGNMENT
    for index in range(num_pairs):
        start = cursor.position
        key = cursor.string(f"key {index}", _MAX_KEY_BYTES)
        if key in metadata:
            raise cursor.error("the key occurs twice", key, start)
        value_start = cursor.position
        metadata[key] = value = cursor.value(key)
        if key == "general.alignment":
            alignment = _checked_alignment(value, cursor, value_start)
    return metadata, alignment


def _checked_alignment(value: MetadataValue, cursor: GGUFCursor, offset: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value <= 0 or value & (value - 1):
        raise cursor.error(f"alignment {value!r:.40} is not a power of two", "general.alignment", offset)
    return value


def _read_tensor_records(cursor: GGUFCursor, num_tensors: int) -> tuple[list[TensorEntry], list[int]]:
    """Entries whose `start` still counts from the data section, and where each record's offset field stands."""
    entries: dict[str, TensorEntry] = {}
    record_offsets = []
    for index in range(num_tensors):
        start = cursor.position
        name = cursor.string(f"tensor {index}", _MAX_TENSOR_NAME_BYTES)
        if name in entries:
            raise cursor.error("the tensor occurs twice", name, start)
        entries[name] = _read_tensor_record(cursor, name)
        record_offsets.append(cursor.position - 8)
    return list(entries.values()), record_offsets


def _read_tensor_record(cursor: GGUFCursor, name: str) -> TensorEntry:
    start = cursor.position
    num_dimensions = cursor.uint32(name)
    if not 1 <= num_dimensions <= _MAX_DIMENSIONS:
        raise cursor.error(f"{num_dimensions} dimensions; 1 to {_MAX_DIMENSIONS} are possible", name, start)
    shape = tuple(cursor.uint64(name) for _ in range(num_dimensions))[::-1]
    type_offset = cursor.position
    type_number = cursor.uint32(name)
    if type_number not in GGML_TYPES:
        raise cursor.error(f"tensor type {type_number} is unknown", name, type_offset)
    ggml_type = GGML_TYPES[type_number]
    num_elements = prod(shape)
    if not 0 < num_elements < 2**63:
        raise cursor.error(f"shape {shape} has no elements or too many", name, start)
    if shape[-1] % ggml_type.block_elements:
        reason = f"{ggml_type.name} rows hold multiples of {ggml_type.block_elements} elements, not {shape[-1]}"
        raise cursor.error(reason, name, start)
    num_bytes = num_elements // ggml_type.block_elements * ggml_type.block_bytes
    return TensorEntry(name, ggml_type.name, ggml_type.encoding, shape, cursor.uint64(name), num_bytes)


def _place(
    entry: TensorEntry, record_offset: int, data_start: int, alignment: int, cursor: GGUFCursor, file_bytes: int
) -> TensorEntry:
    """The entry with `start` counted from the file's first byte, once it is known to lie inside the file."""
    if entry.start % alignment:
        reason = f"data offset {entry.start} is not a multiple of the alignment {alignment}"
        raise cursor.error(reason, entry.name, record_offset)
    start = data_start + entry.start
    if start + entry.num_bytes > file_bytes:
        reason = f"data at {start} of {entry.num_bytes} bytes passes the end of the file at {file_bytes}; truncated?"
        raise cursor.error(reason, entry.name, record_offset)
    return TensorEntry(entry.name, entry.type_name, entry.encoding, entry.shape, start, entry.num_bytes)


def _refuse_overlap(entries: list[TensorEntry], cursor: GGUFCursor) -> None:
    """Tensors on the same bytes would let a small file ask for much memory once weights are packed."""
    for before, after in pairwise(sorted(entries, key=lambda entry: entry.start)):
        if before.start + before.num_bytes > after.start:
            raise cursor.error(f"data overlaps that of {before.name!r}", after.name, after.start)
