"""Traces: the published files whole, small ones in every published form, and damaged ones."""

from __future__ import annotations

import csv
import gzip
import json
import re
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from vivace.bench.traffic.traces.trace import TRACE_KINDS, read_trace, trace_kind
from vivace.core.errors import ConfigError

AZURE_2023 = """TIMESTAMP,ContextTokens,GeneratedTokens\r
2023-11-16 18:17:03.9799600,4808,10\r
2023-11-16 18:17:04.0319600,110,27\r
"""
AZURE_2024 = """TIMESTAMP,ContextTokens,GeneratedTokens
2024-05-10 00:00:00.009930+00:00,2162,5
2024-05-10 00:00:00+00:00,2399,6
2024-05-10 00:00:01.017335+00:00,76,14
"""
BURSTGPT = """Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type
5,ChatGPT,472,18,490,Conversation log
1106,ChatGPT,0,0,0,Conversation log
4598.0,GPT-4,830,0,830,API log
"""
BURSTGPT_2 = """Timestamp,Session ID,Elapsed time,Model,Request tokens,Response tokens,Total tokens,Log Type
19440110.0,1722ac82-0a46,43,GPT-4,906,446,1352,Conversation log
19440161.0,,2,ChatGPT,36,29,65,API log
"""
MOONCAKE = """{"timestamp": 27482, "input_length": 1955, "output_length": 52, "hash_ids": [46, 47, 48, 2353]}
{"timestamp": 30535, "input_length": 512, "output_length": 26, "hash_ids": [46]}
"""
_CHAT = '{"chat_id": %d, "parent_chat_id": %d, "timestamp": %s, "input_length": %d, "output_length": %d, %s}\n'
BAILIAN = (
    _CHAT % (159, -1, "61.114", 33, 132, '"type": "text", "turn": 1, "hash_ids": [1089, 1090, 1091]')
    + _CHAT % (160, 159, "62.5", 64, 80, '"type": "text", "turn": 2, "hash_ids": [1089, 1090, 6326, 13148]')
    + _CHAT % (170, 160, "70", 16, 8, '"type": "file", "turn": 3, "hash_ids": [1089]')
)
_TOKENS = (
    '{"input_toks": %d, "output_toks": %d, "arrival_time_ns": %d, "input_tok_ids": %s, "output_tok_ids": [1, 2]}\n'
)
SHAREGPT = _TOKENS % (3, 2, 46926808, "[5971, 2927, 220]") + _TOKENS % (1, 9, 1000000000, "[7]")
FORMS = {
    "azure": (AZURE_2023, [0.0, 0.052], [(4808, 10), (110, 27)]),
    "azure 2024": (AZURE_2024, [0.0, -0.00993, 1.007405], [(2162, 5), (2399, 6), (76, 14)]),
    "burstgpt": (BURSTGPT, [5.0, 1106.0, 4598.0], [(472, 18), (0, 0), (830, 0)]),
    "burstgpt 2": (BURSTGPT_2, [19440110.0, 19440161.0], [(906, 446), (36, 29)]),
    "mooncake": (MOONCAKE, [27.482, 30.535], [(1955, 52), (512, 26)]),
    "qwen-bailian": (BAILIAN, [61.114, 62.5, 70.0], [(33, 132), (64, 80), (16, 8)]),
    "sharegpt-tokens": (SHAREGPT, [0.046926808, 1.0], [(3, 2), (1, 9)]),
}


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str | bytes], Path]:
    def written(content: str | bytes) -> Path:
        path = tmp_path / "trace"
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return written


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("packed", [False, True])
def test_every_published_form_is_recognised_and_read(
    write: Callable[[str | bytes], Path], name: str, packed: bool
) -> None:
    content, moments, lengths = FORMS[name]
    path = write(gzip.compress(content.encode()) if packed else content)
    assert trace_kind(path) == name.split()[0]
    rows = list(read_trace(path))
    assert [row.arrival_s for row in rows] == pytest.approx(moments, abs=1e-12)
    assert [(row.prompt_len, row.output_len) for row in rows] == lengths
    assert list(read_trace(path, name.split()[0])) == rows


def test_what_only_some_formats_tell(write: Callable[[str | bytes], Path]) -> None:
    rows = list(read_trace(write(BAILIAN)))
    assert (rows[1].block_hashes, rows[1].block_len) == ((1089, 1090, 6326, 13148), 16)
    rows = list(read_trace(write(MOONCAKE)))
    assert (rows[1].block_hashes, rows[1].block_len) == ((46,), 512)
    assert next(read_trace(write(SHAREGPT))).token_ids == (5971, 2927, 220)


def test_a_trace_may_have_another_block_length(write: Callable[[str | bytes], Path]) -> None:
    row = {"timestamp": 1, "input_length": 40, "output_length": 1, "hash_ids": [1, 2, 3]}
    path = write(json.dumps(row))
    assert next(read_trace(path, block_len=16)).block_len == 16
    with pytest.raises(ConfigError, match="3 blocks for 40 tokens, where blocks of 512 tokens would be 1"):
        list(read_trace(path))
    with pytest.raises(ConfigError, match="no blocks"):
        read_trace(write(AZURE_2024), block_len=16)


def test_a_mark_of_byte_order_and_empty_lines_do_not_matter(write: Callable[[str | bytes], Path]) -> None:
    path = write(b"\xef\xbb\xbf" + AZURE_2024.replace("\n", "\n\n").encode())
    assert len(list(read_trace(path))) == 3


def _replaced(content: str, old: str, new: str) -> str:
    assert old in content
    return content.replace(old, new)


DAMAGED = {
    "a letter": (_replaced(AZURE_2024, "2399", "23x9"), "line 3, column 'ContextTokens': '23x9' is no number"),
    "half a token": (_replaced(AZURE_2024, "2399", "23.9"), "line 3, column 'ContextTokens': 23.9 is no number of"),
    "below 0": (_replaced(AZURE_2024, "2399", "-2"), "line 3, column 'ContextTokens': -2.0 is no number of tokens"),
    "not a number": (_replaced(AZURE_2024, "2399", "nan"), "line 3, column 'ContextTokens'"),
    "infinite": (_replaced(AZURE_2024, "2399", "inf"), "line 3, column 'ContextTokens'"),
    "a huge prompt": (_replaced(AZURE_2024, "2399", "9" * 15), "line 3, column 'ContextTokens'"),
    "a month too many": (_replaced(AZURE_2024, "2024-05-10 00:00:01", "2024-13-10 00:00:01"), "line 4, column 'TIME"),
    "no date": (_replaced(AZURE_2023, "2023-11-16 18:17:04.0319600", "yesterday"), "line 3, column 'TIMESTAMP'"),
    "a column lost": (_replaced(AZURE_2024, "2399,6", "2399"), "line 3 has 2 columns, the header 3"),
    "a column more": (_replaced(BURSTGPT, "18,490", "18,490,1"), "line 2 has 7 columns, the header 6"),
    "an open quote": (_replaced(BURSTGPT, "472", '"472'), "line 2 is no row of a CSV file"),
    "no moment": (_replaced(BURSTGPT, "4598.0", ""), "line 4, column 'Timestamp': '' is no number"),
    "a far moment": (_replaced(BURSTGPT, "4598.0", "1e99"), "line 4, column 'Timestamp': '1e99' is no moment"),
    "no JSON": (MOONCAKE[:-20], "line 2 is no JSON object"),
    "a list": (MOONCAKE + "[1]", "line 3 is no JSON object but list"),
    "deep": (MOONCAKE + '{"a":' * 100_000, "line 3 is no JSON object"),
    "a field lost": (
        _replaced(MOONCAKE, '"output_length": 26, ', ""),
        "line 2 has no 'output_length'; it has timest",
    ),
    "true": (_replaced(MOONCAKE, ": 512", ": true"), "line 2, column 'input_length': True is no number"),
    "NaN": (_replaced(MOONCAKE, "30535", "NaN"), "line 2, column 'timestamp'"),
    "a block too few": (_replaced(MOONCAKE, "[46]", "[]"), "line 2, column 'hash_ids': 0 blocks for 512 tokens"),
    "a block of text": (_replaced(MOONCAKE, "[46]", '["46"]'), "line 2, column 'hash_ids': '46' is no whole number"),
    "no list": (_replaced(MOONCAKE, "[46]", "46"), "line 2, column 'hash_ids': a list of whole numbers"),
    "ids lost": (_replaced(SHAREGPT, "[7]", "[]"), "line 2, column 'input_tok_ids': 0 ids where input_toks is 1"),
    "an id below 0": (_replaced(SHAREGPT, "[7]", "[-7]"), "line 2, column 'input_tok_ids': -7 is no whole number"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_row_is_named_by_file_line_and_column(write: Callable[[str | bytes], Path], name: str) -> None:
    content, said = DAMAGED[name]
    path = write(content)
    with pytest.raises(ConfigError, match=re.escape(said)) as raised:
        list(read_trace(path))
    assert str(path) in str(raised.value)
    assert "\n" not in str(raised.value)
    assert len(str(raised.value)) < 400 + len(str(path))


def test_files_that_are_no_trace(write: Callable[[str | bytes], Path], tmp_path: Path) -> None:
    rows = "".join(f"{number},GPT-4,{number * 7919 % 4000},7,9,API log\n" for number in range(20_000))
    packed = gzip.compress(f"{BURSTGPT}{rows}".encode())
    for content, said in (
        ("", "holds nothing"),
        ("a,b,c\n1,2,3\n", "no known trace has these columns: .a, b, c."),
        ('{"prompt": "x"}\n', "no known trace"),
        ("{broken\n", "no known trace"),
        (b"\xff\xfe\x00", "no UTF-8 text"),
        (packed[:-100], "gzip data break"),
        (packed[:-4] + b"\xaa" * 4, "gzip data break"),
    ):
        with pytest.raises(ConfigError, match=said):
            list(read_trace(write(content)))
    for missing in (tmp_path / "none.csv", tmp_path):
        with pytest.raises(ConfigError, match="cannot read"):
            list(read_trace(missing))
    with pytest.raises(ConfigError, match="did you mean 'mooncake'"):
        read_trace(write(MOONCAKE), "moncake")


def test_the_kinds_of_the_tests_are_all_kinds() -> None:
    assert {name.split()[0] for name in FORMS} == set(TRACE_KINDS)


def test_rows_are_read_only_as_far_as_they_are_asked_for(write: Callable[[str | bytes], Path]) -> None:
    rows = read_trace(write(AZURE_2024 + "damaged\n"))
    assert [next(rows).prompt_len for _ in range(3)] == [2162, 2399, 76]
    with pytest.raises(ConfigError, match="line 5"):
        next(rows)


def test_the_azure_trace_is_read_whole(shared: Path) -> None:
    path = shared / "traces" / "AzureLLMInferenceTrace_conv.csv.gz"
    with gzip.open(path, "rt", newline="") as file:
        wanted = list(csv.DictReader(file))
    rows = list(read_trace(path))
    assert len(rows) == len(wanted) == 19_366
    assert [row.prompt_len for row in rows] == [int(row["ContextTokens"]) for row in wanted]
    assert [row.output_len for row in rows] == [int(row["GeneratedTokens"]) for row in wanted]
    moments = [_second_of_day(row["TIMESTAMP"]) for row in wanted]
    assert [row.arrival_s for row in rows] == [float(moment - moments[0]) for moment in moments]
    assert rows[-1].arrival_s == pytest.approx(58 * 60, abs=60)


def _second_of_day(stamp: str) -> Decimal:
    assert stamp.startswith("2023-11-16 ")
    hours, minutes, seconds = stamp.split(" ")[1].split(":")
    return int(hours) * 3600 + int(minutes) * 60 + Decimal(seconds)


def _records(path: Path) -> list[dict[str, Any]]:
    with gzip.open(path, "rt") as file:
        return [json.loads(line) for line in file]


def test_the_mooncake_trace_is_read_whole(shared: Path) -> None:
    path = shared / "traces" / "mooncake_conversation_trace.jsonl.gz"
    wanted, rows = _records(path), list(read_trace(path))
    assert len(rows) == len(wanted) == 6_000
    for row, record in zip(rows, wanted, strict=True):
        assert (row.prompt_len, row.output_len) == (record["input_length"], record["output_length"])
        assert row.arrival_s == pytest.approx(record["timestamp"] / 1000, abs=1e-9)
        assert row.block_hashes == tuple(record["hash_ids"])


def test_the_sharegpt_trace_is_read_whole(shared: Path) -> None:
    path = shared / "traces" / "sharegpt-llama-3.1-8b-300-sps10.jsonl.gz"
    wanted, rows = _records(path), list(read_trace(path))
    assert len(rows) == len(wanted) == 300
    for row, record in zip(rows, wanted, strict=True):
        assert (row.prompt_len, row.output_len) == (record["input_toks"], record["output_toks"])
        assert row.arrival_s == pytest.approx(record["arrival_time_ns"] / 1e9, abs=1e-12)
        assert row.token_ids == tuple(record["input_tok_ids"])
