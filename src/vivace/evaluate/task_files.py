"""Task files: JSONL of several data sets, and llama.cpp's HellaSwag text; plain or bzip2."""

from __future__ import annotations

import bz2
import json
from dataclasses import dataclass
from pathlib import Path

from vivace.core.errors import ConfigError
from vivace.evaluate.task_items import ChoiceItem, TaskItem
from vivace.evaluate.task_records import PARSERS, Record, recognised

MAX_BYTES = 1 << 28  # of a file, decompressed: no published task is near it
BZIP2_MAGIC = b"BZh"
LINES_OF_AN_ITEM = 6  # llama.cpp's HellaSwag: context, number of the right ending, four endings


@dataclass(frozen=True, slots=True)
class TaskFile:
    """A task: `format` is one of PARSERS, `name` the file's without its endings."""

    name: str
    format: str
    items: list[TaskItem]


def read_task(source: str) -> TaskFile:
    """Read `FILE`, whose format is recognised from its content, or `FORMAT:FILE`.

    Raises `ConfigError` with the line at fault.
    """
    prefix, _, rest = source.partition(":")
    path, asked = (Path(rest), prefix) if prefix in PARSERS and rest else (Path(source), None)
    lines = _lines(path)
    first = next((line for line in lines if line.strip()), None)
    if first is None:
        raise ConfigError(f"{path} is empty: a task needs questions")
    if not first.lstrip().startswith("{"):
        if asked not in (None, "hellaswag"):
            raise ConfigError(f"{path}, line 1: a {asked} file has a JSON object a line")
        return TaskFile(_name(path), "hellaswag", _six_lines(path, lines))
    format_name = asked or recognised(_record(path, lines.index(first) + 1, first))
    if format_name is None:
        raise ConfigError(
            f"{path}, line {lines.index(first) + 1}: not the fields of a known task; "
            f"say which one it is: --task FORMAT:{path.name} with one of {', '.join(PARSERS)}"
        )
    return TaskFile(_name(path), format_name, _json_lines(path, lines, format_name))


def _json_lines(path: Path, lines: list[str], format_name: str) -> list[TaskItem]:
    parse = PARSERS[format_name]
    items = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        record = _record(path, number, line)
        try:
            items.append(parse(record))
        except ConfigError as error:
            raise ConfigError(f"{path}, line {number} ({format_name}): {error}") from None
    return items


def _six_lines(path: Path, lines: list[str]) -> list[TaskItem]:
    while lines and not lines[-1].strip():
        lines.pop()
    items: list[TaskItem] = []
    for start in range(0, len(lines), LINES_OF_AN_ITEM):
        block = [line.strip() for line in lines[start : start + LINES_OF_AN_ITEM]]
        context, label, *endings = block + [""] * (LINES_OF_AN_ITEM - len(block))
        if len(block) < LINES_OF_AN_ITEM or not all(block):
            empty = start + 1 + (block.index("") if "" in block else len(block))
            raise ConfigError(f"{path}, line {empty}: a HellaSwag question has six lines, none of them empty")
        if label not in ("0", "1", "2", "3"):
            raise ConfigError(
                f"{path}, line {start + 2}: the right ending is a number from 0 to 3, not {label[:40]!r}"
            )
        items.append(ChoiceItem(context, tuple(endings), int(label)))
    return items


def _record(path: Path, number: int, line: str) -> Record:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path}, line {number}: no JSON ({error})") from None
    if not isinstance(record, dict):
        raise ConfigError(f"{path}, line {number}: a JSON object is needed")
    return record


def _lines(path: Path) -> list[str]:
    """The file's lines; split at newlines alone, since texts may hold other separators."""
    try:
        with path.open("rb") as file:
            is_packed = file.read(len(BZIP2_MAGIC)) == BZIP2_MAGIC
        with bz2.open(path) if is_packed else path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except EOFError:
        raise ConfigError(f"{path} is cut off: its bzip2 stream has no end") from None
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror or error}") from None
    if len(content) > MAX_BYTES:
        raise ConfigError(f"{path} holds more than {MAX_BYTES >> 20} MiB: split it")
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        number = content.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{path}, line {number}: not UTF-8") from None
    return [line.removesuffix("\r") for line in text.split("\n")]


def _name(path: Path) -> str:
    return path.name.partition(".")[0] or path.name
