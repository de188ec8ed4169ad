"""`vivace tokenize` against SentencePiece itself and against published vectors."""

from __future__ import annotations

from pathlib import Path

import sentencepiece
from command_run import Vivace

SEPARATOR = "\n__ggml_vocab_test__\n"


def test_ids_are_those_of_sentencepiece(vivace: Vivace, stories: str) -> None:
    text = "Once upon a time, Lily said: hello!"
    oracle = sentencepiece.SentencePieceProcessor(model_file=str(Path(stories) / "tokenizer.model"))
    expected = oracle.encode(text)
    plain = vivace("tokenize", stories, "--prompt", text, "--no-special")
    assert [int(word) for word in plain.stdout.split()] == expected
    framed = vivace("tokenize", stories, "--prompt", text)
    assert [int(word) for word in framed.stdout.split()] == [oracle.bos_id(), *expected]


def test_a_vocabulary_alone_is_enough(vivace: Vivace, shared: Path) -> None:
    vocabulary = shared / "tokenizers" / "llama.cpp-vocabs" / "ggml-vocab-gpt-2.gguf"
    texts = Path(f"{vocabulary}.inp").read_text().split(SEPARATOR)
    vectors = Path(f"{vocabulary}.out").read_text().splitlines()
    chosen = max(range(len(texts)), key=lambda index: len(texts[index]))
    done = vivace("tokenize", str(vocabulary), "--prompt", "-", "--no-special", stdin=texts[chosen])
    assert done.stdout.split() == vectors[chosen].split()


def test_broken_unicode_is_told(vivace: Vivace, stories: str) -> None:
    done = vivace("tokenize", stories, "--prompt", "-", stdin=b"\xff\xfe")  # type: ignore[arg-type]
    assert done.code == 2
    assert "UTF-8" in done.stderr
