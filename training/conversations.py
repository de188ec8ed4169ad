"""Finds conversations in plain text, so that the chat template is not foreign to a model of books and manuals.

Two shapes are cheap and true to the text: a dialogue in a novel (paragraphs that are quoted speech and nothing else,
the first of them a question) and a manual's article (its heading is the question, its first paragraphs the answer).
"""

import re
from collections.abc import Iterator

Conversation = list[str]  # turns, the user's first, then alternating; always an even number

_SPEECH = re.compile(r'["“]([^"“”]+)["”]')
_HEADING = re.compile(r"# (?!Title:)(\S.{2,80})")
_MAX_TURNS = 8
_MAX_ANSWER_CHARS = 900


def conversations(document: str) -> Iterator[Conversation]:
    """Every conversation that the document holds, in its order."""
    paragraphs = [" ".join(p.split()) for p in document.split("\n\n")]
    paragraphs = [p for p in paragraphs if p]
    article = _article(paragraphs)
    if article:
        yield article
    yield from _dialogues(paragraphs)


def _article(paragraphs: list[str]) -> Conversation | None:
    """A heading that opens a document, asked about, and the prose that follows it, up to the next heading."""
    heading = _HEADING.fullmatch(paragraphs[0]) if paragraphs else None
    if not heading:
        return None
    answer = ""
    for paragraph in paragraphs[1:]:
        if paragraph.startswith(("#", "|", "```", "- ")) or len(answer) + len(paragraph) > _MAX_ANSWER_CHARS:
            break
        answer += ("\n\n" if answer else "") + paragraph
    return [f"What is {heading[1].strip()}?", answer] if answer else None


def _dialogues(paragraphs: list[str]) -> Iterator[Conversation]:
    """Runs of paragraphs that are wholly speech, cut to an even number of turns and begun with a question."""
    turns: Conversation = []
    for paragraph in [*paragraphs, ""]:
        speech = _SPEECH.fullmatch(paragraph)
        text = speech[1].strip() if speech else ""
        if text and len(turns) < _MAX_TURNS and (turns or text.endswith("?")):
            turns.append(text)
            continue
        if len(turns) >= 2:
            yield turns[: len(turns) // 2 * 2]
        turns = [text] if text.endswith("?") else []
