"""Replayed traces: the lengths and gaps of the file, prefixes shared as its hashes say, what is cut is told."""

from __future__ import annotations

import csv
import gzip
import json
import math
from array import array
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import pytest

from vivace.bench.traffic.load_shape import LoadShape
from vivace.bench.traffic.prompt_text import PromptText
from vivace.bench.traffic.replay import replay
from vivace.bench.traffic.request import Traffic
from vivace.bench.traffic.traces.row import TraceRow
from vivace.bench.traffic.traces.trace import read_trace
from vivace.bench.traffic.warm_up import warm_up_traffic
from vivace.core.errors import ConfigError
from vivace.engine.tokenizer import Tokenizer, load_tokenizer
from vivace.resources import embedded_model_path
from vivace.schedule.prefix_index import chained_hash

ENGINE_BLOCK = 16
AZURE = "AzureLLMInferenceTrace_conv.csv.gz"
MOONCAKE = "mooncake_conversation_trace.jsonl.gz"
SHAREGPT = "sharegpt-llama-3.1-8b-300-sps10.jsonl.gz"


@pytest.fixture(scope="module")
def prompts() -> PromptText:
    return PromptText(load_tokenizer(embedded_model_path()))


def _rows() -> list[TraceRow]:
    return [
        TraceRow(10.0, 20, 5),
        TraceRow(10.5, 0, 3),
        TraceRow(14.0, 50, 0),
        TraceRow(13.0, 300, 40),
        TraceRow(12.0, 30, 900),
    ]


def test_gaps_and_lengths_are_the_files_own(shared: Path, prompts: PromptText) -> None:
    with gzip.open(shared / "traces" / AZURE, "rt", newline="") as file:
        wanted = list(islice(csv.DictReader(file), 400))
    traffic = replay(read_trace(shared / "traces" / AZURE), prompts=prompts, num_requests=400, time_scale=0.25)
    assert [request.prompt_len for request in traffic.requests] == [int(row["ContextTokens"]) for row in wanted]
    assert [request.output_len for request in traffic.requests] == [int(row["GeneratedTokens"]) for row in wanted]
    minutes = [float(row["TIMESTAMP"][14:16]) * 60 + float(row["TIMESTAMP"][17:]) for row in wanted]
    assert [one.arrival_s for one in traffic.requests] == pytest.approx(
        [(moment - minutes[0]) / 4 for moment in minutes], abs=1e-6
    )
    assert traffic.concurrency is None
    assert traffic.source["largest_length_deviation"] == 0
    encode = prompts.encoder.encode
    assert all(len(encode(request.text or "")) == request.prompt_len for request in traffic.requests)


def _engine_hits(prompts: list[list[int]]) -> list[int]:
    """Leading blocks of each prompt that an earlier one has, by the engine's own hash of a block and its parents."""
    seen: set[bytes] = set()
    hits: list[int] = []
    for ids in prompts:
        parent, num_hits, missed = b"", 0, False
        for start in range(0, len(ids) - ENGINE_BLOCK + 1, ENGINE_BLOCK):
            parent = chained_hash(parent, array("i", ids[start : start + ENGINE_BLOCK]).tobytes())
            missed = missed or parent not in seen
            num_hits += not missed
            seen.add(parent)
        hits.append(num_hits)
    return hits


def _wanted_hits(records: list[tuple[int, tuple[int, ...], int]]) -> list[int]:
    """The same by the trace's hashes alone: of (prompt length, hashes, tokens of a block)."""
    seen: set[tuple[int, ...]] = set()
    hits: list[int] = []
    for prompt_len, hashes, block_len in records:
        shared = 0
        while shared < len(hashes) and hashes[: shared + 1] in seen:
            shared += 1
        seen.update(hashes[: count + 1] for count in range(len(hashes)))
        hits.append(min(shared * block_len, prompt_len) // ENGINE_BLOCK)
    return hits


def test_the_engine_finds_the_prefixes_that_the_mooncake_trace_shares(shared: Path, prompts: PromptText) -> None:
    count = 250
    with gzip.open(shared / "traces" / MOONCAKE, "rt") as file:
        records = [json.loads(line) for line in islice(file, count)]
    traffic = replay(read_trace(shared / "traces" / MOONCAKE), prompts=prompts, num_requests=count)
    ids = [list(prompts.encoder.encode(request.text or "")) for request in traffic.requests]
    assert [len(one) for one in ids] == [record["input_length"] for record in records]
    wanted = _wanted_hits([(record["input_length"], tuple(record["hash_ids"]), 512) for record in records])
    print(f"{sum(wanted)} of {sum(len(one) // ENGINE_BLOCK for one in ids)} blocks are shared")
    assert sum(wanted) > 5_000
    assert _engine_hits(ids) == wanted


def test_blocks_of_16_tokens_are_shared_to_the_block(prompts: PromptText) -> None:
    """As Qwen-Bailian has them; hashes may stand for a block alone, so that one comes again under another parent."""
    chains = [(1, 2, 3, 4), (1, 2, 5), (9, 2, 3, 4), (1, 2, 3, 4, 6), (7,), (1, 2, 3, 4)]
    lengths = [64, 40, 60, 75, 16, 64]
    rows = [
        TraceRow(float(number), length, 1, chain, 16)
        for number, (chain, length) in enumerate(zip(chains, lengths, strict=True))
    ]
    traffic = replay(rows, prompts=prompts)
    ids = [list(prompts.encoder.encode(request.text or "")) for request in traffic.requests]
    assert [len(one) for one in ids] == lengths
    wanted = _wanted_hits(list(zip(lengths, chains, [16] * 6, strict=True)))
    assert wanted == [0, 2, 0, 4, 0, 4]
    assert _engine_hits(ids) == wanted


def test_prompts_of_a_trace_without_hashes_share_nothing(shared: Path, prompts: PromptText) -> None:
    traffic = replay(read_trace(shared / "traces" / SHAREGPT), prompts=prompts, max_model_len=512)
    ids = [list(prompts.encoder.encode(request.text or "")) for request in traffic.requests]
    assert len(ids) == 300
    assert sum(_engine_hits(ids)) == 0


def test_token_ids_are_sent_where_they_are_asked_for(shared: Path, prompts: PromptText) -> None:
    path = shared / "traces" / SHAREGPT
    traffic = replay(read_trace(path), prompts=prompts, num_requests=20, send_token_ids=True)
    assert [one.token_ids for one in traffic.requests] == [row.token_ids for row in islice(read_trace(path), 20)]
    assert all(one.text is None for one in traffic.requests)
    with pytest.raises(ConfigError, match="no token ids"):
        replay(_rows(), prompts=prompts, send_token_ids=True)


def test_what_is_cut_and_left_out_is_told(prompts: PromptText) -> None:
    traffic = replay(_rows(), prompts=prompts, max_model_len=256)
    assert [(one.arrival_s, one.prompt_len, one.output_len) for one in traffic.requests] == [
        (0.0, 20, 5),
        (2.0, 30, 226),
        (3.0, 216, 40),
    ]
    assert [one.index for one in traffic.requests] == [0, 1, 2]
    told = {name: value for name, value in traffic.source.items() if "clip" in name or name == "left_out"}
    assert told == {
        "clipped_prompts": 1,
        "clipped_prompts_tokens": 84,
        "clipped_outputs": 1,
        "clipped_outputs_tokens": 674,
        "left_out": 2,
    }
    assert traffic.source["max_model_len"] == 256


def test_a_trace_may_arrive_as_another_load_does(prompts: PromptText) -> None:
    users = replay(_rows(), prompts=prompts, load=LoadShape(concurrency=2))
    assert (users.concurrency, {one.arrival_s for one in users.requests}) == (2, {None})
    even = replay(_rows(), prompts=prompts, load=LoadShape(rate=2.0, burstiness=math.inf))
    assert [one.arrival_s for one in even.requests] == [0.0, 0.5, 1.0]
    assert [one.prompt_len for one in even.requests] == [20, 30, 300]
    with pytest.raises(ConfigError, match="time scale"):
        replay(_rows(), prompts=prompts, load=LoadShape(rate=2.0), time_scale=2.0)


def test_no_more_rows_are_read_than_are_wanted(prompts: PromptText) -> None:
    asked: list[int] = []

    def rows() -> Iterator[TraceRow]:
        for number in range(1_000_000):
            asked.append(number)
            yield TraceRow(number / 10, 20, 5 if number % 2 else 0)

    assert len(replay(rows(), prompts=prompts, num_requests=5).requests) == 5
    assert len(asked) == 10


def test_a_seed_decides_the_texts_and_nothing_else(shared: Path, prompts: PromptText) -> None:
    def traffic(seed: int) -> Traffic:
        path = shared / "traces" / MOONCAKE
        return replay(read_trace(path), prompts=prompts, num_requests=15, max_model_len=1024, seed=seed)

    assert repr(traffic(1)) == repr(traffic(1))
    texts = [{request.text for request in traffic(seed).requests} for seed in (1, 2)]
    assert not texts[0] & texts[1]
    shapes = [[(one.arrival_s, one.prompt_len, one.output_len) for one in traffic(seed).requests] for seed in (1, 2)]
    assert shapes[0] == shapes[1]


def test_warming_up_leaves_no_block_of_the_traffic_behind(shared: Path, prompts: PromptText) -> None:
    traffic = replay(read_trace(shared / "traces" / AZURE), prompts=prompts, num_requests=60, max_model_len=1024)
    warm = warm_up_traffic(traffic, prompts, 20)
    assert warm.concurrency is not None
    assert len(warm.requests) == 20
    assert {one.prompt_len for one in warm.requests} <= {one.prompt_len for one in traffic.requests}
    encode = prompts.encoder.encode
    assert [len(encode(one.text or "")) for one in warm.requests] == [one.prompt_len for one in warm.requests]
    assert sum(_engine_hits([list(encode(one.text or "")) for one in (*warm.requests, *traffic.requests)])) == 0


def test_a_tokenizer_that_frames_texts_keeps_the_blocks(shared: Path) -> None:
    """Llama's begin-of-sequence token is the first of the first block."""
    tokenizer: Tokenizer = load_tokenizer(shared / "weights" / "stories260K")
    assert len(tokenizer.encode("")) == 1
    rows = [
        TraceRow(0.0, 96, 1, (1, 2, 3), 32),
        TraceRow(1.0, 80, 1, (1, 2, 4), 32),
        TraceRow(2.0, 64, 1, (8, 2), 32),
    ]
    ids = [tokenizer.encode(one.text or "") for one in replay(rows, prompts=PromptText(tokenizer)).requests]
    assert [len(one) for one in ids] == [96, 80, 64]
    assert _engine_hits(ids) == [0, 4, 0]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"time_scale": 0.0}, "above 0"),
        ({"time_scale": float("inf")}, "above 0"),
        ({"num_requests": 0}, "1 request or more"),
        ({"max_model_len": 1}, "2 tokens or more"),
        ({"rows": []}, "no request"),
        ({"rows": [TraceRow(0.0, 0, 0)]}, "no request"),
    ],
)
def test_impossible_replays_are_refused(prompts: PromptText, options: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        replay(**({"rows": _rows(), "prompts": prompts} | options))  # type: ignore[arg-type]
