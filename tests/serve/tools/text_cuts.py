"""The same text, cut in every way that matters, must be parsed to the same."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator

from vivace.serve.tools.deltas import ContentDelta, OutputDelta, OutputParser, ReasoningDelta, ToolCallStart, gather

Parsed = tuple[str, str, list[tuple[str, str]]]


def cuts(text: str, seed: int = 0) -> Iterator[list[str]]:
    """Whole; letter by letter; in two at each position; in random pieces, empty ones among them."""
    yield [text]
    yield list(text)
    for position in range(1, len(text)):
        yield [text[:position], text[position:]]
    generator = random.Random(seed)
    for _ in range(20):
        borders = sorted(generator.choices(range(len(text) + 1), k=6))
        yield [text[start:end] for start, end in zip([0, *borders], [*borders, len(text)], strict=True)]


def parsed(parser: OutputParser, pieces: Iterable[str]) -> Parsed:
    """(content, reasoning, calls) of a text that comes in pieces; checks what holds for every parser."""
    deltas: list[OutputDelta] = []
    for piece in pieces:
        deltas += parser.push(piece)
    deltas += parser.finish()
    assert all(delta.text for delta in deltas if isinstance(delta, ContentDelta | ReasoningDelta))
    starts = [delta for delta in deltas if isinstance(delta, ToolCallStart)]
    assert [start.index for start in starts] == list(range(len(starts)))
    assert len({start.id for start in starts}) == len(starts)
    assert parser.num_tool_calls == len(starts)
    output = gather(deltas)
    return output.content, output.reasoning, [(call.name, call.arguments) for call in output.tool_calls]


def parsed_every_way(make: Callable[[], OutputParser], text: str) -> Parsed:
    """What `text` is parsed to, however it is cut."""
    results = [parsed(make(), pieces) for pieces in cuts(text)]
    assert all(result == results[0] for result in results)
    return results[0]
