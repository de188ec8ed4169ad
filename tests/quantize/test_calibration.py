"""Calibration data in every form that is read, and one clear line for what is not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vivace.core.errors import ConfigError
from vivace.engine.tokenizer import Tokenizer, load_tokenizer
from vivace.quantize.calibration import Calibration, load_calibration
from vivace.resources import embedded_model_path
from vivace.resources.passages import passages


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return load_tokenizer(embedded_model_path())


def load(tokenizer: Tokenizer, path: Path | str | None, num_samples: int = 4, seed: int = 0) -> Calibration:
    dataset = None if path is None else str(path)
    return load_calibration(tokenizer, dataset, num_samples=num_samples, seq_len=64, seed=seed)


def test_the_built_in_sample_is_read_without_a_file(tokenizer: Tokenizer) -> None:
    data = load(tokenizer, None, 1_000)
    assert data.token_ids_SL.shape[1] == 64
    assert data.num_tokens > 15_000
    assert "built-in" in data.source
    assert len(passages().split("\n<|endoftext|>\n")) > 15


def test_windows_are_a_function_of_the_seed(tokenizer: Tokenizer) -> None:
    one, same, other = (load(tokenizer, None, seed=seed) for seed in (1, 1, 2))
    assert one.token_ids_SL.shape == (4, 64)
    assert one.checksum == same.checksum
    assert one.checksum != other.checksum
    with np.testing.assert_raises(AssertionError):
        np.testing.assert_array_equal(one.token_ids_SL, other.token_ids_SL)


WORDS = "The river was high that spring, and nobody crossed it but the ferryman's two sons. " * 20


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        ({"text": WORDS}, WORDS),
        ({"prompt": WORDS, "id": 3}, WORDS),
        ({"messages": [{"role": "user", "content": WORDS}]}, f"<|user|>\n{WORDS}<|end|>\n"),
        (
            {"messages": [{"role": "user", "content": [{"type": "text", "text": WORDS}]}]},
            f"<|user|>\n{WORDS}<|end|>\n",
        ),
        (
            {"conversations": [{"from": "human", "value": WORDS}, {"from": "gpt", "value": "Yes."}]},
            f"<|user|>\n{WORDS}<|end|>\n<|assistant|>\nYes.<|end|>\n",
        ),
    ],
)
def test_json_lines(tokenizer: Tokenizer, tmp_path: Path, record: dict[str, Any], expected: str) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text(json.dumps(record) + "\n\n")
    ids = load(tokenizer, path, 2).token_ids_SL.reshape(-1)
    is_chat = expected.startswith("<|")
    wanted = (
        tokenizer.encode(expected, add_special=False, parse_special=True) if is_chat else tokenizer.encode(expected)
    )
    np.testing.assert_array_equal(ids, wanted[: len(ids)])


def test_a_short_text_gives_one_short_window(tokenizer: Tokenizer, tmp_path: Path) -> None:
    path = tmp_path / "short.txt"
    path.write_text(WORDS[:200])
    data = load(tokenizer, path)
    assert data.token_ids_SL.shape[0] == 1
    assert 32 <= data.token_ids_SL.shape[1] < 64


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"", "holds no text"),
        ("a.txt", b"One short line.", "calibration needs at least 32"),
        ("a.txt", b"\xff\xfe", "not UTF-8 text (byte 0)"),
        ("a.jsonl", b"", "holds no text"),
        ("a.jsonl", b'{"text": "x"}\n[1]\n', "line 2 is no JSON object"),
        ("a.jsonl", b"{", "line 1 is no JSON object"),
        ("a.jsonl", b'{"body": "x"}', "has no messages, conversations, text or prompt; it has body"),
        ("a.jsonl", b'{"messages": [1]}', "a message is no object"),
        ("a.jsonl", b'{"messages": [{"role": "user"}]}', "a message needs role and content"),
        ("a.jsonl", b'{"text": "\\ud800"}', "cannot be encoded"),
        ("a.txt", None, "no such file"),
    ],
)
def test_broken_data(tokenizer: Tokenizer, tmp_path: Path, name: str, content: bytes | None, message: str) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError) as refusal:
        load(tokenizer, path)
    assert message in str(refusal.value)
    assert name in str(refusal.value)
