"""Broken and hostile vocabularies: a `ModelFileError` that names the field, never a crash or a guess."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vivace.core.errors import ModelFileError
from vivace.engine.tokenizer import load_tokenizer, tokenizer_from_gguf

BYTES = [f"<0x{byte:02X}>" for byte in range(256)]


def llama_metadata(**changes: Any) -> dict[str, Any]:
    tokens = ["<unk>", "<s>", "</s>", *BYTES, "▁", "a", "b", "ab", "▁ab"]
    entries: dict[str, Any] = {
        "model": "llama",
        "tokens": tokens,
        "scores": [0.0] * 259 + [-3.0, -4.0, -5.0, -1.0, -2.0],
        "token_type": [2, 3, 3] + [6] * 256 + [1] * 5,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    return {f"tokenizer.ggml.{key}": value for key, value in {**entries, **changes}.items() if value is not None}


def gpt2_metadata(**changes: Any) -> dict[str, Any]:
    entries: dict[str, Any] = {
        "model": "gpt2",
        "pre": "gpt-2",
        "tokens": ["a", "b", "ab", "<|endoftext|>"],
        "token_type": [1, 1, 1, 3],
        "merges": ["a b"],
        "eos_token_id": 3,
    }
    return {f"tokenizer.ggml.{key}": value for key, value in {**entries, **changes}.items() if value is not None}


def replaced(values: list[Any], index: int, value: Any) -> list[Any]:
    return [*values[:index], value, *values[index + 1 :]]


LLAMA = llama_metadata()
TOKENS, SCORES = LLAMA["tokenizer.ggml.tokens"], LLAMA["tokenizer.ggml.scores"]
KINDS = LLAMA["tokenizer.ggml.token_type"]


def test_small_vocabularies_are_read() -> None:
    tokenizer = tokenizer_from_gguf(llama_metadata())
    assert tokenizer.encode("ab") == [1, 263]
    assert tokenizer.encode("é", add_special=False) == [259, 3 + 0xC3, 3 + 0xA9]
    arrays = llama_metadata(scores=np.array(SCORES, np.float32), token_type=np.array(KINDS, np.int32))
    assert tokenizer_from_gguf(arrays).encode("ab") == [1, 263]
    assert tokenizer_from_gguf(gpt2_metadata()).encode("ab") == [2]


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"tokens": replaced(TOKENS, 3, "<0x-1>")}, "tokens"),
        ({"tokens": replaced(TOKENS, 3, "<0x100>")}, "tokens"),
        ({"tokens": replaced(TOKENS, 260, "b")}, "tokens"),
        ({"tokens": replaced(TOKENS, 260, "x" * 100_000)}, "tokens"),
        ({"tokens": replaced(TOKENS, 260, 7)}, "tokens"),
        ({"tokens": []}, "tokens"),
        ({"tokens": None}, "tokens"),
        ({"tokens": "abc"}, "tokens"),
        ({"scores": replaced(SCORES, 260, float("nan"))}, "tokens"),
        ({"scores": replaced(SCORES, 260, float("inf"))}, "tokens"),
        ({"scores": SCORES[:-1]}, "scores"),
        ({"scores": ["x"] * len(SCORES)}, "scores"),
        ({"scores": None}, "scores"),
        ({"token_type": [*KINDS, 1]}, "token_type"),
        ({"token_type": replaced(KINDS, 5, 99)}, "token_type"),
        ({"bos_token_id": len(TOKENS)}, "bos_token_id"),
        ({"bos_token_id": 2**31}, "bos_token_id"),
        ({"eos_token_id": -7}, "eos_token_id"),
        ({"eos_token_id": "2"}, "eos_token_id"),
        ({"bos_token_id": None, "add_bos_token": True}, "add_bos_token"),
        ({"eos_token_id": None, "add_eos_token": True}, "add_eos_token"),
        ({"model": "rwkv"}, "model"),
        ({"model": None}, "model"),
        ({"model": 3}, "model"),
    ],
)
def test_broken_llama_vocabularies(changes: dict[str, Any], field: str) -> None:
    with pytest.raises(ModelFileError) as caught:
        tokenizer_from_gguf(llama_metadata(**changes), path="file.gguf")
    assert caught.value.field == f"tokenizer.ggml.{field}"
    assert "file.gguf" in str(caught.value)


@pytest.mark.parametrize(
    "changes",
    [
        {"merges": ["a c"]},
        {"merges": ["b a"]},
        {"merges": ["ab"]},
        {"merges": [5]},
        {"merges": None},
        {"pre": "unheard-of"},
        {"pre": 5},
    ],
)
def test_broken_byte_level_vocabularies(changes: dict[str, Any]) -> None:
    with pytest.raises(ModelFileError):
        tokenizer_from_gguf(gpt2_metadata(**changes))


def test_directory_without_a_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match=r"tokenizer\.json"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("tokenizer.json", "{"),
        ("tokenizer.json", "{}"),
        ("tokenizer.json", "[" * 100_000),
        ("tokenizer_config.json", "[]"),
        ("tokenizer_config.json", "{"),
        ("tokenizer_config.json", '{"added_tokens_decoder": {"-1": {"content": "x"}}}'),
        ("tokenizer_config.json", '{"added_tokens_decoder": {"4294967296": {"content": "x"}}}'),
        ("tokenizer_config.json", '{"added_tokens_decoder": {"100": {"content": "x"}}}'),
        ("tokenizer_config.json", '{"added_tokens_decoder": {"0": {"content": "x"}}}'),
        ("tokenizer_config.json", '{"bos_token": "absent"}'),
        ("tokenizer_config.json", '{"tokenizer_class": "Unheard"}'),
        ("generation_config.json", '{"eos_token_id": "2"}'),
        ("vocab.json", '{"a": 0, "b": 0}'),
        ("vocab.json", '{"a": 0, "b": 7}'),
        ("vocab.json", '{"a": 0, "b": -1}'),
        ("vocab.json", '{"a": 0, "b": 1.5}'),
        ("merges.txt", "a\n"),
        ("merges.txt", "a c\n"),
        ("merges.txt", "a b c\n"),
    ],
)
def test_broken_directories(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / "vocab.json").write_text(json.dumps({"a": 0, "b": 1, "ab": 2}))
    (tmp_path / "merges.txt").write_text("#version: 0.2\na b\n")
    assert load_tokenizer(tmp_path).encode("ab") == [2]
    (tmp_path / name).write_text(content)
    with pytest.raises(ModelFileError):
        load_tokenizer(tmp_path)


def test_mutated_sentencepiece_models(shared: Path, tmp_path: Path) -> None:
    original = (shared / "weights/stories260K/tokenizer.model").read_bytes()
    path = tmp_path / "tokenizer.model"
    generator = random.Random(17)
    refused = 0
    for _ in range(200):
        data = bytearray(original)
        for _ in range(generator.randrange(1, 4)):
            data[generator.randrange(len(data))] = generator.randrange(256)
        path.write_bytes(data[: generator.choice([len(data), generator.randrange(len(data))])])
        try:
            load_tokenizer(tmp_path).encode("Once upon a time")
        except ModelFileError:
            refused += 1
    assert refused > 50


def test_chat_template_comes_from_its_own_file_first(shared: Path, tmp_path: Path) -> None:
    shutil.copy(shared / "weights/stories260K/tokenizer.model", tmp_path / "tokenizer.model")
    assert load_tokenizer(tmp_path).chat_template is None
    named = [{"name": "tool_use", "template": "T"}, {"name": "default", "template": "D"}]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": named}))
    assert load_tokenizer(tmp_path).chat_template == "D"
    (tmp_path / "chat_template.jinja").write_text("J")
    assert load_tokenizer(tmp_path).chat_template == "J"
