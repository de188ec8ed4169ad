"""What every contender is asked to do, and the conversation with the process in which it does it.

A contender runs in a process of its own, so that idle thread pools, allocators and environments do not meet. It reads
one JSON request a line from standard input and answers each with one line `RESULT {...}` on standard output.
"""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass

MARK = "RESULT "


@dataclass(frozen=True, slots=True)
class Work:
    """`num_streams` prompts of `prompt_len` random tokens at once, then `output_len` tokens of each."""

    name: str
    num_streams: int
    prompt_len: int
    output_len: int

    def prompts(self, vocab_size: int, seed: int) -> list[list[int]]:
        source = random.Random(seed)
        return [source.choices(range(BYTES_END, vocab_size - 2), k=self.prompt_len) for _ in range(self.num_streams)]


BYTES_END = 256  # ids below and the last two have a meaning in some vocabularies
WORKS = {
    work.name: work
    for work in (
        Work("prefill 512", 1, 512, 1),
        Work("decode 1", 1, 128, 33),
        Work("decode 8", 8, 32, 25),
        Work("decode 16", 16, 32, 17),
        Work("decode 32", 32, 32, 13),
        Work("decode 1 at 2k", 1, 2048, 25),
        Work("decode 1 at 8k", 1, 8192, 17),
    )
}


@dataclass(frozen=True, slots=True)
class Speed:
    """Tokens a second, all streams together: of the prompts, and of the tokens after each stream's first."""

    prefill: float
    decode: float | None


def serve(measure: Callable[[Work, int], Speed]) -> None:
    """Answer requests {"work": name, "seed": n} until standard input ends."""
    for line in sys.stdin:
        request = json.loads(line)
        speed = measure(WORKS[request["work"]], request["seed"])
        print(MARK + json.dumps(asdict(speed)), flush=True)
