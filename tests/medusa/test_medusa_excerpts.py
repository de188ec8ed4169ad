"""Excerpts of text files: whole characters, whole words, the same for the same seed."""

from __future__ import annotations

from pathlib import Path

from vivace.engine.tokenizer import load_tokenizer
from vivace.medusa.excerpts import Excerpts
from vivace.resources import embedded_model_path

ENGLISH = "It was a bright cold day in April and the clocks were striking thirteen. " * 50
CHINESE = "\u5929\u5730\u7384\u9ec4\u5b87\u5b99\u6d2a\u8352" * 400  # no blank in 9,600 bytes


def excerpts(tmp_path: Path, *texts: str, seed: int = 0) -> tuple[Excerpts, list[str]]:
    paths = []
    for index, text in enumerate(texts):
        paths.append(tmp_path / f"{index}.txt")
        paths[-1].write_text(text, encoding="utf-8")
    made = Excerpts(paths, load_tokenizer(embedded_model_path()), seed)
    return made, [made.tokenizer.decode(made.tokens(index, 12)) for index in range(40)]


def test_excerpts_are_pieces_of_the_text(tmp_path: Path) -> None:
    _, english = excerpts(tmp_path, ENGLISH)
    assert all(text in ENGLISH and text.split()[0] in ENGLISH.split() for text in english)
    assert len(set(english)) > 10


def test_text_without_blanks_is_cut_between_characters(tmp_path: Path) -> None:
    _, chinese = excerpts(tmp_path, CHINESE)
    assert all(text.rstrip("\ufffd") in CHINESE for text in chinese)  # the last token may be part of a character


def test_the_same_seed_gives_the_same_excerpts(tmp_path: Path) -> None:
    _, first = excerpts(tmp_path, ENGLISH, CHINESE)
    _, again = excerpts(tmp_path, ENGLISH, CHINESE)
    _, other = excerpts(tmp_path, ENGLISH, CHINESE, seed=1)
    assert first == again != other


def test_files_count_by_their_size(tmp_path: Path) -> None:
    made, texts = excerpts(tmp_path, "", ENGLISH, CHINESE * 5)
    assert made.sizes[0] == 0
    assert 0 < sum(text.isascii() for text in texts) < 15
