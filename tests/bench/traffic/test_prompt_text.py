"""Texts of exact length, for tokenizers of every make; prefixes that are shared as they are to be and no further."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import tokenizers

from vivace.bench.traffic.prompt_text import PromptText
from vivace.bench.traffic.prompt_tree import ENGINE_BLOCK_LEN, PromptTree
from vivace.core.errors import ConfigError
from vivace.engine.tokenizer import Tokenizer, load_tokenizer
from vivace.resources import embedded_model_path

LENGTHS = (1, 2, 3, 5, 8, 15, 16, 17, 64, 511, 512, 1000, 4097)
NAMES = ("embedded", "gpt2", "qwen2.5", "smollm2", "phi3", "mistral", "stories260K")


def _tokenizer(name: str, shared: Path, room: Path) -> Tokenizer:
    if name == "embedded":
        return load_tokenizer(embedded_model_path())
    if name == "stories260K":
        return load_tokenizer(shared / "weights" / name)
    if name == "mistral":  # SentencePiece
        model = next((shared / "tokenizers" / name).glob("*.model.v3"))
        (room / "tokenizer.model").symlink_to(model)
        return load_tokenizer(room)
    return load_tokenizer(shared / "tokenizers" / name)


@pytest.fixture(scope="module")
def embedded() -> PromptText:
    return PromptText(load_tokenizer(embedded_model_path()))


@pytest.mark.parametrize("name", NAMES)
def test_prompts_have_their_length_to_the_token(shared: Path, tmp_path: Path, name: str) -> None:
    """GPT-2's, Qwen's, Llama's, Phi's and Mistral's vocabularies, and one of 512 pieces."""
    tokenizer = _tokenizer(name, shared, tmp_path)
    text = PromptText(tokenizer)
    tree = PromptTree(text, 11)
    smallest = text.num_frame_tokens + 1
    for length in (*LENGTHS, *(random.Random(11).randrange(20, 600) for _ in range(20))):
        prompt = tree.prompt(max(length, smallest))
        assert text.deviation(prompt, max(length, smallest)) == 0, (length, prompt[-40:])
        assert len(tokenizer.encode(prompt)) == max(length, smallest)


def test_another_library_counts_the_same(shared: Path) -> None:
    """GPT-2's vocabulary as its publisher's library reads it, which knows nothing of our tokenizer."""
    library = tokenizers.Tokenizer.from_file(str(shared / "tokenizers" / "gpt2" / "tokenizer.json"))
    tree = PromptTree(PromptText(load_tokenizer(shared / "tokenizers" / "gpt2")), 3)
    assert [len(library.encode(tree.prompt(length)).ids) for length in LENGTHS] == list(LENGTHS)


@pytest.mark.parametrize("name", NAMES)
def test_blocks_begin_at_their_token(shared: Path, tmp_path: Path, name: str) -> None:
    """Token ids of two prompts agree up to the end of the last block that they share, and part right behind it."""
    tokenizer = _tokenizer(name, shared, tmp_path)
    tree = PromptTree(PromptText(tokenizer), 5)
    for block_len in (16, 512):
        chains = [(1, 2, 3), (1, 2, 4), (1, 5, 3), (6, 2, 3), (1, 2, 3)]
        prompts = [tokenizer.encode(tree.prompt(3 * block_len, chain, block_len)) for chain in chains]
        assert {len(ids) for ids in prompts} == {3 * block_len}
        shared_lens = [_num_shared(prompts[0], ids) for ids in prompts[1:]]
        for length, blocks in zip(shared_lens, (2, 1, 0, 3), strict=True):
            assert blocks * block_len <= length < blocks * block_len + ENGINE_BLOCK_LEN


def _num_shared(one: list[int], other: list[int]) -> int:
    pairs = zip(one, other, strict=True)
    return next((index for index, (a, b) in enumerate(pairs) if a != b), len(one))


def test_thousands_of_prompts_share_no_block(embedded: PromptText) -> None:
    """More prompts than the text has words, each asked for twice under names of its own."""
    tree = PromptTree(embedded, 0)
    count = len(embedded.words) + 500
    prompts = [tree.prompt(40) for _ in range(count)]
    openings = {tuple(embedded.encoder.encode(prompt)[:ENGINE_BLOCK_LEN]) for prompt in prompts}
    assert len(openings) == count


def test_siblings_beyond_the_places_in_the_text_still_part(embedded: PromptText) -> None:
    tree = PromptTree(embedded, 0)
    seen = {
        tuple(embedded.encoder.encode(tree.prompt(64, (1, 2 + child), 32))[32 : 32 + ENGINE_BLOCK_LEN])
        for child in range(15_000)
    }
    assert len(seen) == 15_000


def test_a_prompt_that_nobody_shares_reads_on_from_block_to_block(embedded: PromptText) -> None:
    tree = PromptTree(embedded, 2)
    whole = " ".join(embedded.words)
    prompt = tree.prompt(512 * 3, (1, 2, 3), 512)
    words = prompt.split(" ")
    runs = [" ".join(words[start : start + 30]) for start in range(2, len(words) - 30, 30)]
    found = sum(run in whole for run in runs)
    print(f"{found} of {len(runs)} runs of 30 words stand in the text")
    assert found >= len(runs) - 4  # at a block's end a word or two are chosen for their length; the text may wrap


def test_prompts_depend_on_nothing_but_the_seed_and_their_order(embedded: PromptText) -> None:
    def prompts(seed: int) -> list[str]:
        tree = PromptTree(embedded, seed)
        return [tree.prompt(100, (number % 3, number), 32) for number in range(20)]

    assert prompts(4) == prompts(4)
    assert not set(prompts(4)) & set(prompts(5))


class Letters:
    """A tokenizer that no run of words fits: every letter is a token, and a text of even length has one more."""

    def encode(self, text: str, /) -> list[int]:
        return [ord(letter) for letter in text] + [0] * (len(text) % 2 == 0)


def test_a_length_that_is_missed_is_told() -> None:
    text = PromptText(Letters())
    prompt = PromptTree(text, 0).prompt(200)
    assert text.deviation(prompt, 200) == len(Letters().encode(prompt)) - 200
    assert abs(text.deviation(prompt, 200)) < 60


@pytest.mark.parametrize(
    ("content", "said"), [(b"few words", "holds 2 words"), (b"\xff\xfe" * 99, "no UTF-8"), (None, "cannot read")]
)
def test_a_file_that_gives_no_prompts_is_refused(
    embedded: PromptText, tmp_path: Path, content: bytes | None, said: str
) -> None:
    path = tmp_path / "text.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=said):
        PromptText.from_file(embedded.encoder, path)
