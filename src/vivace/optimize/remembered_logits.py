"""What the reference says of the text that quality is judged by, computed once for all candidates.

The reference has the widest weights: scoring a text with it takes most of a judgement's time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from vivace.engine.llm import LLM
from vivace.engine.loader import LoadedEngine
from vivace.engine.logits import PromptLogits

MOST_BYTES = 1 << 30

Prompt = tuple[int, ...]


@dataclass(slots=True)
class LogitsMemory:
    """Rows by prompt and first row, as long as they fit `most_bytes`."""

    most_bytes: int = MOST_BYTES
    num_bytes: int = 0
    _chunks: dict[tuple[Prompt, int], list[PromptLogits]] = field(default_factory=dict)

    def recall(self, prompt: Prompt, first: int) -> list[PromptLogits] | None:
        return self._chunks.get((prompt, first))

    def keep(self, prompt: Prompt, first: int, chunks: list[PromptLogits]) -> None:
        num_bytes = sum(one.rows_SV.nbytes for one in chunks)
        if self.num_bytes + num_bytes <= self.most_bytes:
            self._chunks[prompt, first] = chunks
            self.num_bytes += num_bytes


class RememberedLLM(LLM):
    """An engine whose logits of single prompts come from a memory where that has them."""

    _memory: LogitsMemory

    @classmethod
    def over(cls, loaded: LoadedEngine, memory: LogitsMemory) -> RememberedLLM:
        llm = cls.of(loaded)
        llm._memory = memory
        return llm

    def logits(self, prompts: Sequence[Sequence[int]], first: Sequence[int]) -> Iterator[PromptLogits]:
        if len(prompts) != 1:
            yield from super().logits(prompts, first)
            return
        prompt, row = tuple(prompts[0]), first[0]
        known = self._memory.recall(prompt, row)
        if known is not None:
            yield from known
            return
        kept: list[PromptLogits] = []
        for chunk in super().logits(prompts, first):
            kept.append(PromptLogits(chunk.index, chunk.start, chunk.rows_SV.copy()))
            yield chunk
        self._memory.keep(prompt, row, kept)
