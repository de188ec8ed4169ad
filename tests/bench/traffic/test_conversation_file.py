"""Conversations from files, in both forms that they are published in."""

from __future__ import annotations

import gzip
import json
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from vivace.bench.traffic import record_file
from vivace.bench.traffic.conversation_file import Conversation, read_conversations
from vivace.bench.traffic.prompt_text import PromptText
from vivace.bench.traffic.scenario import make_traffic
from vivace.bench.traffic.warm_up import warm_up_traffic
from vivace.core.errors import ConfigError
from vivace.engine.chat_template import encode_chat
from vivace.engine.tokenizer import Tokenizer, load_tokenizer
from vivace.resources import embedded_model_path

SHAREGPT = {
    "id": "QWJhYvA_0",
    "conversations": [
        {"from": "human", "value": "What is a token?"},
        {"from": "gpt", "value": "A piece of text."},
        {"from": "human", "value": "And a block?"},
        {"from": "gpt", "value": "Some tokens together."},
    ],
}
OPENAI = {
    "messages": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "Why "}, {"type": "text", "text": "so?"}]},
        {"role": "assistant", "content": "Because."},
        {"role": "user", "content": "Nobody answers this."},
    ]
}
OUT_OF_TURN = {
    "conversations": [
        {"from": "human", "value": "One"},
        {"from": "gpt", "value": "Two"},
        {"from": "gpt", "value": "Three"},
        {"from": "human", "value": "Four"},
    ]
}
NO_QUESTION = {"conversations": [{"from": "gpt", "value": "Hello"}, {"from": "human", "value": "Hi"}]}


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return load_tokenizer(embedded_model_path())


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    def written(*records: object) -> Path:
        path = tmp_path / "chats.jsonl"
        path.write_text("".join(one if isinstance(one, str) else f"{json.dumps(one)}\n" for one in records))
        return path

    return written


def test_both_forms_are_read(write: Callable[..., Path]) -> None:
    path = write(SHAREGPT, OPENAI, OUT_OF_TURN, NO_QUESTION, {"messages": []})
    assert list(read_conversations(path)) == [
        Conversation((("What is a token?", "A piece of text."), ("And a block?", "Some tokens together.")), None),
        Conversation((("Why so?", "Because."),), "Be brief."),
        Conversation((("One", "Two"),), None),
    ]


def test_turns_follow_each_other_with_the_answers_lengths(write: Callable[..., Path], tokenizer: Tokenizer) -> None:
    traffic = make_traffic(
        "conversations", tokenizer=tokenizer, conversations=write(SHAREGPT), rate=1.0, think_s=0.0, num_requests=9
    )
    first, second = traffic.requests
    assert [one.output_len for one in traffic.requests] == [
        len(tokenizer.encode(answer)) for answer in ("A piece of text.", "Some tokens together.")
    ]
    assert (first.after, second.after, second.think_s) == (None, 0, 0.0)
    assert second.messages == (
        {"role": "user", "content": "What is a token?"},
        {"role": "assistant", "content": "A piece of text."},
        {"role": "user", "content": "And a block?"},
    )


def test_the_published_chats_are_drawn_by_the_seed(shared: Path, tokenizer: Tokenizer) -> None:
    path = shared / "eval" / "conversations_1k.jsonl"
    asked = {json.loads(line)["messages"][0]["content"] for line in path.read_text().splitlines()}
    drawn = []
    for seed in (1, 1, 2):
        traffic = make_traffic(
            "conversations", tokenizer=tokenizer, conversations=path, concurrency=8, num_requests=150, seed=seed
        )
        assert len(traffic.requests) == 150
        for request in traffic.requests:
            assert request.prompt_len == len(encode_chat(tokenizer, request.messages or ()))
            assert (request.messages or ())[0]["content"] in asked
        drawn.append([request.messages for request in traffic.requests])
    assert drawn[0] == drawn[1] != drawn[2]


def test_warming_up_with_chats(tokenizer: Tokenizer) -> None:
    traffic = make_traffic(tokenizer=tokenizer, num_requests=10)
    warm = warm_up_traffic(traffic, PromptText(tokenizer), 4)
    assert all(one.messages is not None and one.after is None for one in warm.requests)
    lengths = sorted(one.prompt_len for one in traffic.requests)
    for request in warm.requests:
        assert lengths[0] - 4 <= request.prompt_len <= lengths[-1] + 4


def test_long_conversations_end_where_the_context_does(write: Callable[..., Path], tokenizer: Tokenizer) -> None:
    words = "all work and no play makes jack a dull boy " * 10
    turns = [{"role": role, "content": words} for _ in range(20) for role in ("user", "assistant")]
    path = write({"messages": turns}, {"messages": [{"role": "user", "content": words * 20}, *turns[1:]]})
    traffic = make_traffic(
        "conversations", tokenizer=tokenizer, conversations=path, max_model_len=1000, num_requests=100
    )
    assert 2 <= len(traffic.requests) < 10
    assert all(one.prompt_len + one.output_len <= 1000 for one in traffic.requests)


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("packed", [False, True])
def test_one_array_is_read_as_lines_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, indent: int | None, packed: bool
) -> None:
    """ShareGPT's usual form; the cuts between reads fall into records, words and characters."""
    monkeypatch.setattr(record_file, "CHUNK_BYTES", 7)
    accented = {"conversations": [{"from": "human", "value": "é🌊?"}, {"from": "gpt", "value": "ü" * 50}]}
    written = json.dumps([SHAREGPT, accented, OPENAI], indent=indent, ensure_ascii=False).encode("utf-8-sig")
    path = tmp_path / "chats.json"
    path.write_bytes(gzip.compress(written) if packed else written)
    lines = tmp_path / "chats.jsonl"
    lines.write_text("".join(json.dumps(one) + "\n" for one in (SHAREGPT, accented, OPENAI)))
    assert list(read_conversations(path)) == list(read_conversations(lines))
    assert len(list(read_conversations(path))) == 3
    path.write_text(" [\n] ")
    assert list(read_conversations(path)) == []


def test_an_array_is_not_held_in_memory(tmp_path: Path) -> None:
    """16 MB of chats: the first one is there before the last is read, and few are held."""
    path = tmp_path / "chats.json"
    one = json.dumps({"conversations": [{"from": "human", "value": "x" * 8000}, {"from": "gpt", "value": "y"}]})
    path.write_text("[" + ",".join([one] * 2000) + ", broken]")
    tracemalloc.start()
    try:
        with pytest.raises(ConfigError, match="record 2001 is no JSON object"):
            for _ in read_conversations(path):
                pass
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 4 << 20


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[{"messages": []}', "before record 2: the file ends"),
        ('[{"messages": []}, {"messages": [', "record 2 is no JSON object"),
        ('[{"messages": []},', "record 2 is missing: the file ends"),
        ('[{"messages": []} {"messages": []}]', "before record 2: ',' is missing"),
        ('[{"messages": []}, 3]', "record 2 is no JSON object but int"),
        ('[{"messages": []}] x', "something follows the array of 1 records"),
        ('[{"messages": [3]}]', r"record 1, messages\[0\] is no object"),
        ("[" * 100_000, "record 1 is no JSON object"),
    ],
)
def test_a_damaged_array_is_named(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "chats.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match=said):
        list(read_conversations(path))


def test_bytes_of_an_array_that_are_no_text(tmp_path: Path) -> None:
    path = tmp_path / "chats.json"
    path.write_bytes(b'[{"messages": []}, {"messages": "\xff"}]')
    with pytest.raises(ConfigError, match="no UTF-8"):
        list(read_conversations(path))
    path.write_bytes(gzip.compress(json.dumps([SHAREGPT] * 50).encode())[:-20])
    with pytest.raises(ConfigError, match="the gzip data break"):
        list(read_conversations(path))


DAMAGED = {
    "no list": ({"text": "x"}, "line 2 has no list 'conversations' or 'messages'; it has text"),
    "no object": ({"messages": ["x"]}, r"line 2, messages\[0\] is no object"),
    "no role": ({"messages": [{"content": "x"}]}, r"line 2, messages\[0\] needs role and content"),
    "no text": ({"conversations": [{"from": "human", "value": 3}]}, r"line 2, conversations\[0\] needs"),
    "half a character": ({"messages": [{"role": "user", "content": "\ud800"}]}, "lone surrogate"),
    "no JSON": ("[{", "line 2 is no JSON object"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_line_is_named(write: Callable[..., Path], tokenizer: Tokenizer, name: str) -> None:
    record, said = DAMAGED[name]
    path = write(SHAREGPT, record)
    with pytest.raises(ConfigError, match=said):
        make_traffic("conversations", tokenizer=tokenizer, conversations=path, num_requests=9)


def test_a_file_without_conversations_is_refused(write: Callable[..., Path], tokenizer: Tokenizer) -> None:
    with pytest.raises(ConfigError, match="no dialogue fits"):
        make_traffic("conversations", tokenizer=tokenizer, conversations=write(NO_QUESTION))
