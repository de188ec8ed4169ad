"""Encoding beside the event loop: long texts hold nobody up, hopeless ones are not encoded at all."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any, cast

import pytest

from vivace.core.errors import ContextLengthError, RequestError
from vivace.engine.tokenizer import Tokenizer, load_tokenizer
from vivace.resources import embedded_model_path
from vivace.serve.prompt_encoder import LONG_CHARS, SLICE_IDS, Chat, PromptEncoder

DEADLINE_S = 60.0


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return load_tokenizer(embedded_model_path())


class Lingering:
    """A tokenizer that is done with a long text when it may be."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self.piece_bound = tokenizer.piece_bound
        self.may_end = threading.Event()

    def encode(self, text: str, **options: Any) -> list[int]:
        ids = self.tokenizer.encode(text, **options)
        assert len(text) <= LONG_CHARS or self.may_end.wait(DEADLINE_S)
        return ids


def test_short_texts_overtake_a_long_one(tokenizer: Tokenizer) -> None:
    async def work() -> list[str]:
        lingering = Lingering(tokenizer)
        encoder = PromptEncoder(cast(Tokenizer, lingering), 1 << 22)
        done: list[str] = []

        async def encode(name: str, text: str) -> None:
            await encoder.encode(text)
            done.append(name)

        long = asyncio.create_task(encode("long", "sea " * (1 << 20)))
        await asyncio.sleep(0)
        await asyncio.gather(*(encode("short", "word " * 1_000) for _ in range(3)))
        lingering.may_end.set()
        await long
        encoder.close()
        return done

    assert asyncio.run(asyncio.wait_for(work(), DEADLINE_S)) == ["short", "short", "short", "long"]


def test_the_loop_turns_while_a_long_text_is_encoded(tokenizer: Tokenizer) -> None:
    """Counted, not timed: the loop gets its turns while 2 MiB are encoded, which a held GIL would not allow.

    Where others take the processor meanwhile the next text tells; with the GIL held none ever would.
    """

    async def work() -> None:
        encoder = PromptEncoder(tokenizer, 1 << 22)
        num_turns = 0
        while num_turns <= 20:
            long = asyncio.create_task(encoder.encode("a" * (2 << 20)))
            num_turns = 0
            while not long.done():
                await asyncio.sleep(0.001)
                num_turns += 1
        encoder.close()

    asyncio.run(asyncio.wait_for(work(), DEADLINE_S))


@pytest.mark.parametrize("unit", ["a", " ", "\u0301", "<|end|>", "日本"])
def test_length_alone_refuses_what_cannot_fit(tokenizer: Tokenizer, unit: str) -> None:
    bound = tokenizer.piece_bound
    assert bound is not None
    text = unit * (1_001 * bound.max_bytes // len(unit.encode()) + 1)

    async def work() -> None:
        encoder = PromptEncoder(tokenizer, 1_000)
        with pytest.raises(ContextLengthError, match="at least"):
            await encoder.encode(text)
        chat = Chat([{"role": "user", "content": text}], len(text))
        with pytest.raises(ContextLengthError, match="at least"):
            await encoder.plan_chat(chat)
        encoder.close()

    asyncio.run(work())


@pytest.mark.parametrize("name", ["gpt2", "smollm2", "phi3", "qwen2.5"])
def test_the_bound_on_tokens_holds(shared: Path, name: str) -> None:
    tokenizer = load_tokenizer(shared / "tokenizers" / name)
    bound = tokenizer.piece_bound
    assert bound is not None
    names = sorted(tokenizer.backend.get_vocab(), key=len)[-20:]
    texts = [tokenizer.token_bytes(tokenizer.backend.token_to_id(one)).decode(errors="ignore") for one in names]
    for text in [
        *texts,
        " " * 500,
        "e\u0301" * 200,
        "\u1100\u1161\u11a8" * 100,
        "=" * 300,
        "a\n" * 200,
        *map(chr, range(256)),
    ]:
        ids = tokenizer.encode(text * 50, add_special=False)
        assert bound.min_tokens(text * 50) <= len(ids)


def test_long_texts_have_the_ids_of_short_ones(tokenizer: Tokenizer) -> None:
    """Batches of one are another way through the library: same ids."""
    text = "It was the best of times. – naïve 日本 <|end|>\n" * 2_000
    assert len(text) > LONG_CHARS
    plain = tokenizer.backend.encode(text, add_special_tokens=False).ids
    assert tokenizer.encode(text, add_special=False) == plain


def test_a_model_without_tokenizer_says_so() -> None:
    encoder = PromptEncoder(None, 100)
    with pytest.raises(RequestError, match="token ids"):
        asyncio.run(encoder.encode("text"))
    encoder.close()


def test_ids_in_slices_are_the_text_of_all_at_once(tokenizer: Tokenizer) -> None:
    """The slices' edges fall into characters, and the loop gets its turns."""
    ids = tokenizer.encode("🌊é" * 20_000, add_special=False)
    assert len(ids) > 4 * SLICE_IDS

    async def work() -> tuple[str, int]:
        encoder = PromptEncoder(tokenizer, 1 << 22)
        decoding = asyncio.create_task(encoder.decode(ids, tokenizer.vocab_size))
        num_turns = 0
        while not decoding.done():
            await asyncio.sleep(0)
            num_turns += 1
        with pytest.raises(RequestError):
            await encoder.decode([*ids, tokenizer.vocab_size], tokenizer.vocab_size)
        assert await encoder.decode([], tokenizer.vocab_size) == ""
        encoder.close()
        return await decoding, num_turns

    text, num_turns = asyncio.run(asyncio.wait_for(work(), DEADLINE_S))
    assert text == "🌊é" * 20_000 == tokenizer.decode(ids, skip_special=False)
    assert num_turns > 1
