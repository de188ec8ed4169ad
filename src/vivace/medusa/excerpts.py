"""Token sequences cut from text files, at random places, without reading the files whole."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from vivace.core.errors import ConfigError
from vivace.engine.tokenizer import Tokenizer

BYTES_OF_TOKEN = 8  # more than a token of common vocabularies has; an excerpt that is short is drawn again, longer
MAX_DRAWS = 8
MAX_WORD_BYTES = 64


class Excerpts:
    """Excerpts of UTF-8 text files, each file in proportion to its size. The n-th is a function of seed and n."""

    def __init__(self, paths: list[Path], tokenizer: Tokenizer, seed: int) -> None:
        self.paths, self.tokenizer, self.seed = paths, tokenizer, seed
        self.sizes = [_size(path) for path in paths]
        if not any(self.sizes):
            raise ConfigError(f"no text in {', '.join(map(str, paths)) or 'no files'}")

    def tokens(self, index: int, length: int) -> list[int]:
        """`length` tokens of one place. Raises ConfigError where the texts are too short, or no UTF-8."""
        rng = np.random.default_rng([self.seed, index])
        num_bytes = length * BYTES_OF_TOKEN
        for _ in range(MAX_DRAWS):
            which = int(rng.choice(len(self.paths), p=np.array(self.sizes) / sum(self.sizes)))
            start = int(rng.integers(0, max(1, self.sizes[which] - num_bytes + 1)))
            ids = self.tokenizer.encode(self._text(which, start, num_bytes), add_special=False)
            if len(ids) >= length:
                return ids[:length]
            num_bytes *= 2
        names = ", ".join(map(str, self.paths))
        raise ConfigError(
            f"no {length} tokens of text in one piece found in {names}: give more, or shorter sequences"
        )

    def _text(self, which: int, start: int, num_bytes: int) -> str:
        """From the first word, or where words have no blanks the first character, that begins behind `start`."""
        path = self.paths[which]
        try:
            with path.open("rb") as file:
                file.seek(start)
                data = file.read(num_bytes)
        except OSError as error:
            raise ConfigError(f"cannot read {path}: {error.strerror}") from None
        if start:
            data = data[_first_word(data) :]
        ends = range(len(data), max(-1, len(data) - 4), -1)  # the last character may be cut
        end = next((end for end in ends if _is_utf8(data[:end])), None)
        if end is None:
            raise ConfigError(f"{path} is not UTF-8 text (near byte {start})")
        return data[:end].decode()


def _size(path: Path) -> int:
    try:
        return path.stat().st_size if path.is_file() else _refuse(path)
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from None


def _refuse(path: Path) -> int:
    raise ConfigError(f"cannot read {path}: no such file" if not path.exists() else f"{path} is no file")


def _first_word(data: bytes) -> int:
    blank = next((at for at, byte in enumerate(data[:MAX_WORD_BYTES]) if byte in b" \n"), None)
    if blank is not None:
        return blank
    return next((at for at, byte in enumerate(data[:4]) if byte & 0xC0 != 0x80), 0)  # no continuation of a character


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True
