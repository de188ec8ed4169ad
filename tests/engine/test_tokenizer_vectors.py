"""Tokenizers against vectors and libraries that others published."""

from __future__ import annotations

import random
import shutil
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
import tokenizers
from gguf import GGUFReader

from vivace.engine.tokenizer import Tokenizer, load_tokenizer, tokenizer_from_gguf

VOCABULARIES = "tokenizers/llama.cpp-vocabs"
ALPHABET = "abcdefghijklmnop   \n\n\t.,'ABéßαжش漢字🙂e\u0301▁\u00a0\u3000<>/s0123456789"


@cache  # its library takes a second for a vocabulary, which several tests read
def gguf_metadata(path: Path) -> dict[str, Any]:
    return {key: field.contents() for key, field in GGUFReader(path).fields.items()}


def vectors(shared: Path, name: str) -> list[tuple[str, list[int]]]:
    base = shared / VOCABULARIES / f"ggml-vocab-{name}.gguf"
    texts = Path(f"{base}.inp").read_bytes().decode().split("\n__ggml_vocab_test__\n")
    lines = Path(f"{base}.out").read_text().split("\n")
    expected = [[int(token) for token in line.split()] for line in lines[: len(texts)]]
    assert len(texts) == len(expected) == 47
    return list(zip(texts, expected, strict=True))


def assert_vectors(tokenizer: Tokenizer, pairs: list[tuple[str, list[int]]]) -> None:
    for text, expected in pairs:
        assert tokenizer.encode(text, add_special=False) == expected, repr(text)
        assert tokenizer.decode(expected) == text


@pytest.mark.parametrize("name", ["gpt-2", "llama-spm", "phi-3", "deepseek-llm"])
def test_gguf_vocabulary_agrees_with_published_vectors(shared: Path, name: str) -> None:
    metadata = gguf_metadata(shared / VOCABULARIES / f"ggml-vocab-{name}.gguf")
    assert_vectors(tokenizer_from_gguf(metadata), vectors(shared, name))


@pytest.mark.parametrize(("directory", "name"), [("qwen2.5", "qwen2"), ("gpt2", "gpt-2"), ("phi3", "phi-3")])
def test_directory_agrees_with_published_vectors(shared: Path, directory: str, name: str) -> None:
    assert_vectors(load_tokenizer(shared / "tokenizers" / directory), vectors(shared, name))


def test_gpt2_vocabulary_and_merges_agree_with_its_tokenizer_json(shared: Path, tmp_path: Path) -> None:
    for name in ("vocab.json", "merges.txt"):
        shutil.copy(shared / "tokenizers/gpt2" / name, tmp_path / name)
    assert_vectors(load_tokenizer(tmp_path), vectors(shared, "gpt-2"))


@pytest.mark.parametrize(
    "model", ["weights/stories260K/tokenizer.model", "tokenizers/mistral/mistral_instruct_tokenizer_240323.model.v3"]
)
def test_sentencepiece_model_agrees_with_sentencepiece(shared: Path, tmp_path: Path, model: str) -> None:
    shutil.copy(shared / model, tmp_path / "tokenizer.model")
    tokenizer = load_tokenizer(tmp_path)
    reference = sentencepiece.SentencePieceProcessor(model_file=str(shared / model))
    assert tokenizer.vocab_size == reference.vocab_size()
    assert (tokenizer.bos_id, tokenizer.eos_id) == (reference.bos_id(), reference.eos_id())
    assert tokenizer.encode("x")[0] == reference.bos_id()
    generator = random.Random(7)
    texts = ["".join(generator.choices(ALPHABET, k=generator.randrange(60))) for _ in range(500)]
    texts += ["".join(generator.choices("aa. ", k=generator.randrange(40))) for _ in range(300)]
    sample = (shared / "eval/tinystories_sample.txt").read_text()
    for text in [*texts, *sample.split("\n"), sample]:
        ids = reference.encode(text)
        assert tokenizer.encode(text, add_special=False) == ids, repr(text)
        if not text.startswith(("▁", " ▁")):  # SentencePiece drops every marker at the start, we drop its own one
            assert tokenizer.decode(ids) == reference.decode(ids)


@pytest.mark.parametrize("directory", ["smollm2", "gpt2", "phi3"])
def test_tokenizer_json_agrees_with_its_library(shared: Path, directory: str) -> None:
    path = shared / "tokenizers" / directory
    tokenizer = load_tokenizer(path)
    reference = tokenizers.Tokenizer.from_file(str(path / "tokenizer.json"))
    reference.no_truncation()
    generator = random.Random(11)
    names = [token.content for token in reference.get_added_tokens_decoder().values()]
    for _ in range(300):
        text = "".join(generator.choices(ALPHABET, k=generator.randrange(80)))
        ids = reference.encode(text, add_special_tokens=False).ids
        assert tokenizer.encode(text, add_special=False) == ids
        assert tokenizer.decode(ids) == reference.decode(ids)
        marked = "".join(generator.choices([*ALPHABET, *names], k=12))
        parsed = reference.encode(marked, add_special_tokens=False).ids
        assert tokenizer.encode(marked, add_special=False, parse_special=True) == parsed, repr(marked)


@pytest.mark.parametrize("directory", ["smollm2", "gpt2"])
def test_decoding_of_random_byte_level_ids_agrees_with_its_library(shared: Path, directory: str) -> None:
    path = shared / "tokenizers" / directory
    tokenizer = load_tokenizer(path)
    reference = tokenizers.Tokenizer.from_file(str(path / "tokenizer.json"))
    generator = random.Random(13)
    for _ in range(300):
        ids = generator.choices(range(tokenizer.vocab_size), k=20)
        assert tokenizer.decode(ids) == reference.decode(ids)
        assert tokenizer.decode(ids, skip_special=False) == reference.decode(ids, skip_special_tokens=False)


def test_roles_of_known_vocabularies(shared: Path) -> None:
    smollm = load_tokenizer(shared / "tokenizers/smollm2")
    assert (smollm.bos_id, smollm.eos_id, smollm.pad_id) == (1, 2, 2)
    assert smollm.eos_ids == {0, 2}
    assert not smollm.add_bos
    assert smollm.chat_template is not None
    qwen = load_tokenizer(shared / "tokenizers/qwen2.5")
    assert (qwen.bos_id, qwen.eos_id) == (None, 151645)
    assert qwen.eos_ids == {151643, 151645}
    assert qwen.id_of("<|im_start|>") == 151644
    phi = load_tokenizer(shared / "tokenizers/phi3")
    assert (phi.bos_id, phi.eos_id, phi.add_bos) == (1, 32000, True)
    assert phi.eos_ids >= {32000, 32007}
