"""Questions about documents that come again (retrieval-augmented generation)."""

from __future__ import annotations

from collections.abc import Iterator

from vivace.bench.traffic.dialogue import Dialogue, Turn
from vivace.bench.traffic.lengths import LengthRange
from vivace.bench.traffic.popularity import Popularity
from vivace.bench.traffic.setting import Setting

NUM_DOCUMENTS, DOCUMENTS_PER_QUESTION = 200, 3
DOCUMENT, QUESTION, ANSWER = LengthRange(200, 800, 400), LengthRange(8, 64, 20), LengthRange(16, 200, 64)
INSTRUCTION = "Answer from the documents below, and say so where they do not tell."


def document_questions(setting: Setting) -> Iterator[Dialogue]:
    """Three of two hundred documents, by Zipf's law, then a question. Documents stand in the order of their relevance
    to the question: prompts share a prefix where their first documents are the same."""
    document = DOCUMENT.within(setting.max_model_len // 5)
    question, answer = QUESTION.within(setting.max_model_len // 16), ANSWER.within(setting.max_model_len // 8)
    documents = [setting.tree.content(document.draw(setting.random)) for _ in range(NUM_DOCUMENTS)]
    popularity = Popularity(NUM_DOCUMENTS)
    while True:
        found = popularity.draw_distinct(setting.random, DOCUMENTS_PER_QUESTION)
        asked = setting.tree.content(question.draw(setting.random))
        context = "\n\n".join(f"Document {index + 1}:\n{documents[index]}" for index in found)
        output_len = answer.draw(setting.random)
        turn = Turn(f"{context}\n\nQuestion: {asked}", output_len, setting.tree.content(output_len))
        yield Dialogue((turn,), INSTRUCTION)
