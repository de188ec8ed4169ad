"""Incremental text: the same whatever the chunks, cut exactly at stop strings."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from vivace.engine.detokenize import Detokenizer
from vivace.engine.tokenizer import Tokenizer, load_tokenizer


@pytest.fixture(scope="module", params=["tokenizers/smollm2", "tokenizers/phi3", "weights/stories260K"])
def tokenizer(request: pytest.FixtureRequest, shared: Path) -> Tokenizer:
    return load_tokenizer(shared / request.param)


def chunks(generator: random.Random, ids: list[int]) -> list[list[int]]:
    parts = []
    while ids:
        size = generator.choice([1, 1, 1, 2, 5])
        parts.append(ids[:size])
        ids = ids[size:]
    return parts


def random_ids(generator: random.Random, tokenizer: Tokenizer) -> list[int]:
    """Any ids, with many bytes that are no UTF-8, special tokens, and ids beyond the vocabulary."""
    count = generator.randrange(60)
    few = generator.choices(range(300), k=count)
    any_ids = generator.choices(range(tokenizer.vocab_size + 5), k=count)
    return [generator.choice(pair) for pair in zip(few, any_ids, strict=True)]


def first_stop(text: str, stops: tuple[str, ...]) -> tuple[int, str] | None:
    """Where the text ends by definition: at the first character that completes a stop string, the longest there."""
    for end in range(1, len(text) + 1):
        found = [stop for stop in stops if text[:end].endswith(stop)]
        if found:
            longest = max(found, key=len)
            return end - len(longest), longest
    return None


@pytest.mark.parametrize("seed", range(20))
def test_pushes_join_to_the_text_of_all_ids(tokenizer: Tokenizer, seed: int) -> None:
    generator = random.Random(seed)
    ids = random_ids(generator, tokenizer)
    for skip_special in (True, False):
        for continuation in (True, False):
            whole = tokenizer.decode(ids, skip_special=skip_special, continuation=continuation)
            detokenizer = Detokenizer(tokenizer, skip_special=skip_special, continuation=continuation)
            texts = [detokenizer.push(part) for part in chunks(generator, ids)]
            assert "".join(texts) + detokenizer.finish() == whole
            assert detokenizer.num_tokens == len(ids)


@pytest.mark.parametrize("seed", range(40))
@pytest.mark.parametrize("include_stop", [False, True])
def test_text_is_cut_at_the_first_stop_string(tokenizer: Tokenizer, seed: int, include_stop: bool) -> None:
    generator = random.Random(seed)
    text = "".join(generator.choices("ab\n 🙂é.", k=40))
    ids = tokenizer.encode(text, add_special=False)
    whole = tokenizer.decode(ids, continuation=True)
    stops = tuple("".join(generator.choices("ab\n 🙂é.", k=generator.randrange(1, 5))) for _ in range(3))
    detokenizer = Detokenizer(tokenizer, stops, include_stop)
    parts = [detokenizer.push(part) for part in chunks(generator, ids)]
    result = "".join(parts) + detokenizer.finish()
    expected = first_stop(whole, stops)
    if expected is None:
        assert (result, detokenizer.stopped) == (whole, False)
    else:
        start, stop = expected
        assert result == whole[: start + (len(stop) if include_stop else 0)]
        assert detokenizer.stop_string == stop


def test_tail_that_may_become_a_stop_string_is_held(tokenizer: Tokenizer) -> None:
    detokenizer = Detokenizer(tokenizer, ("STOP now",), continuation=False)
    texts = [detokenizer.push([token]) for token in tokenizer.encode("go STOP it", add_special=False)]
    assert "".join(texts) + detokenizer.finish() == "go STOP it"
    detokenizer = Detokenizer(tokenizer, ("STOP now",), continuation=False)
    texts = [detokenizer.push([token]) for token in tokenizer.encode("go STOP", add_special=False)]
    assert "".join(texts) == "go "
    assert detokenizer.finish() == "STOP"
    assert detokenizer.finish() == ""


def test_tokens_after_the_stop_are_ignored(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("one. two. three.", add_special=False)
    detokenizer = Detokenizer(tokenizer, (".",), continuation=False)
    assert detokenizer.push(ids) == "one"
    assert detokenizer.num_tokens < len(ids)
    assert "." in tokenizer.decode(ids[: detokenizer.num_tokens])
    assert "." not in tokenizer.decode(ids[: detokenizer.num_tokens - 1])
    assert detokenizer.push(ids) == ""
    assert detokenizer.finish() == ""


def test_stop_strings_count_after_the_minimum(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("a. b. c. d.", add_special=False)
    first = Detokenizer(tokenizer, (".",))
    first.push(ids)
    later = Detokenizer(tokenizer, (".",), min_tokens=first.num_tokens, continuation=False)
    assert later.push(ids) == "a. b"


def test_space_before_the_first_word_belongs_to_a_continuation(shared: Path) -> None:
    tokenizer = load_tokenizer(shared / "tokenizers/phi3")
    ids = tokenizer.encode("there was", add_special=False)
    assert tokenizer.decode(ids) == "there was"
    assert Detokenizer(tokenizer).push(ids) == " there was"
