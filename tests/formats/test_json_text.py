"""Members one at a time are what `json` reads of the whole, and lies are refused in little memory."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vivace.core.errors import ModelFileError
from vivace.formats.json_text import JsonText
from vivace.formats.safetensors import MAX_HEADER_BYTES, SafetensorsFile
from vivace.formats.safetensors_index import INDEX_NAME, read_weight_map

SEED = 20261122
HEADER_BYTES = MAX_HEADER_BYTES - 10**6
PEAK_BYTES = 400 << 20  # the file's pages, its text, and 2^18 entries; all of it as values would take 2.5 GB
READ = """
import resource, sys
from vivace.core.errors import ModelFileError
from vivace.formats.safetensors import SafetensorsFile
from vivace.formats.safetensors_index import read_weight_map
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    read_weight_map(sys.argv[2]) if sys.argv[1] == "index" else SafetensorsFile.open(sys.argv[2])
except ModelFileError as error:
    print(1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before), error)
"""


def text_of(value: str | bytes) -> JsonText:
    return JsonText(memoryview(value.encode() if isinstance(value, str) else value), "x.json", 8)


def read(value: str | bytes) -> dict[str, Any]:
    text = text_of(value)
    members = {key: text.value(100_000) for key in text.members()}
    text.end()
    return members


def made(chance: random.Random, depth: int) -> Any:
    kinds = ["text", "number", "word"] + (["list", "object"] if depth else [])
    match chance.choice(kinds):
        case "text":
            return "".join(chance.choice('aé🌊"\\\n\u2028\x7f\x85/{},:[]') for _ in range(chance.randrange(6)))
        case "number":
            return chance.choice([0, -1, 2**70, 1.5, 1e300])
        case "word":
            return chance.choice([None, True, False])
        case "list":
            return [made(chance, depth - 1) for _ in range(chance.randrange(4))]
    return {f"k{number}é": made(chance, depth - 1) for number in range(chance.randrange(4))}


def test_what_json_writes_is_read_as_json_reads_it() -> None:
    chance = random.Random(SEED)
    for number in range(400):
        value = {f"{number}{key}": made(chance, 3) for key in ("a", "é", '"\\', "\n🌊")}
        written = json.dumps(value, ensure_ascii=chance.random() < 0.5, indent=chance.choice([None, 0, 3]))
        assert read(written) == json.loads(written), (SEED, written)


def test_cut_or_changed_text_is_refused_as_json_refuses_it() -> None:
    chance = random.Random(SEED)
    whole = json.dumps(
        {"a": {"dtype": "F32", "shape": [1, 20]}, "é\n": "text", "c": -1.5}, ensure_ascii=False
    ).encode()
    for _ in range(600):
        data = bytearray(whole)
        if chance.random() < 0.3:
            del data[chance.randrange(len(data)) :]
        for _ in range(chance.randint(1, 2)):
            if data:
                data[chance.randrange(len(data))] = chance.choice(b'{}[]",:\\ \n\xc3\xff0a-.')
        try:
            expected = json.loads(data.decode())
        except ValueError:
            expected = None
        if not isinstance(expected, dict):
            with pytest.raises(ModelFileError):
                read(bytes(data))
            continue
        try:
            assert read(bytes(data)) == expected, (SEED, bytes(data))
        except ModelFileError as error:
            if "twice" not in str(error):
                raise


def test_long_values_are_not_read() -> None:
    for written in ('{"a": "' + "x" * 200 + '"}', '{"a": ' + "9" * 200 + "}", '{"a": [' + "[" * 200):
        text = text_of(written)
        assert next(text.members()) == "a"
        with pytest.raises(ModelFileError, match="more than 100 characters"):
            text.value(100)


def filled(part: Callable[[int], str], start: str, end: str) -> str:
    """A text of `HEADER_BYTES`: more different parts than are read, then the same one again and again."""
    start += "".join(map(part, range(300_000)))
    return repeated(part(0), start, end)


def repeated(part: str, start: str, end: str) -> str:
    return start + part * ((HEADER_BYTES - len(start) - len(end)) // len(part)) + end


HEADERS: dict[str, Callable[[], str]] = {
    "empty tensors": lambda: filled(
        lambda number: f'"{number:x}":{{"dtype":"U8","shape":[0],"data_offsets":[0,0]}},', "{", "}"
    ),
    "lists": lambda: repeated("[],", '{"w":[', "0]}"),
    "one name": lambda: repeated("w", '{"', '":0}'),
    "one string of metadata": lambda: repeated("w", '{"__metadata__":{"a":"', '"}}'),
    "pairs of metadata": lambda: filled(lambda number: f'"{number:x}":"",', '{"__metadata__":{', '"z":""}}'),
    "one wide character": lambda: repeated(" ", '{"w🌊":3,', "}"),
}


def peak(kind: str, path: Path) -> tuple[int, str]:
    """Of another process, in bytes beyond what it took before; and what the file was refused for."""
    command = [sys.executable, "-c", READ, kind, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True, env=os.environ)
    num_bytes, _, reason = done.stdout.partition(" ")
    return int(num_bytes), reason


@pytest.mark.parametrize("case", ["empty tensors", "pairs of metadata", "one wide character"])
def test_the_largest_header_takes_little_memory(tmp_path: Path, case: str) -> None:
    header = HEADERS[case]().encode()
    assert 0.98 * HEADER_BYTES < len(header) <= MAX_HEADER_BYTES
    path = tmp_path / "m.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header)
    num_bytes, reason = peak("file", path)
    assert num_bytes < PEAK_BYTES, reason
    assert "header" in reason or "__metadata__" in reason or "needs dtype" in reason


@pytest.mark.parametrize("case", ["lists", "one name", "one string of metadata"])
def test_the_largest_values_are_refused(case: str) -> None:
    header = HEADERS[case]().encode()
    with pytest.raises(ModelFileError, match=r"more than \d+ characters"):
        SafetensorsFile.parse(memoryview(len(header).to_bytes(8, "little") + header), "x.safetensors")


def test_the_largest_index_takes_little_memory(tmp_path: Path) -> None:
    (tmp_path / INDEX_NAME).write_text(HEADERS["lists"]())
    num_bytes, reason = peak("index", tmp_path)
    assert num_bytes < PEAK_BYTES
    assert "more than" in reason
    with pytest.raises(ModelFileError):
        read_weight_map(tmp_path)
