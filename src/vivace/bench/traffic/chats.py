"""Chats: short ones under one system prompt, and single questions under long shared ones."""

from __future__ import annotations

from collections.abc import Iterator

from vivace.bench.traffic.dialogue import Dialogue, Turn
from vivace.bench.traffic.lengths import LengthRange
from vivace.bench.traffic.popularity import Popularity
from vivace.bench.traffic.setting import Setting

SYSTEM_LEN, QUESTION, ANSWER = 64, LengthRange(6, 120, 24), LengthRange(8, 160, 56)
MOST_TURNS, STOP_SHARE = 6, 0.4  # 2.4 turns on average
THINK_S = 1.0

NUM_SYSTEM_PROMPTS, LONG_SYSTEM_LEN = 4, 1024
SHORT_QUESTION, SHORT_ANSWER = LengthRange(8, 96, 32), LengthRange(8, 128, 48)


def short_chats(setting: Setting) -> Iterator[Dialogue]:
    """Chats of one to six turns, each with the same system prompt before it and the turns before in its context."""
    share = setting.max_model_len // 2 // MOST_TURNS
    question, answer = QUESTION.within(share), ANSWER.within(share)
    system = setting.tree.content(max(1, min(SYSTEM_LEN, setting.max_model_len // 16)))
    while True:
        turns: list[Turn] = []
        while not turns or (len(turns) < MOST_TURNS and setting.random.random() > STOP_SHARE):
            turns.append(_turn(setting, question, answer, pause=bool(turns)))
        yield Dialogue(tuple(turns), system)


def system_prompts(setting: Setting) -> Iterator[Dialogue]:
    """One question under one of a few long system prompts, the first of them the most often used."""
    share = setting.max_model_len // 8
    question, answer = SHORT_QUESTION.within(share), SHORT_ANSWER.within(share)
    length = max(1, min(LONG_SYSTEM_LEN, setting.max_model_len // 2))
    systems = [setting.tree.content(length) for _ in range(NUM_SYSTEM_PROMPTS)]
    popularity = Popularity(NUM_SYSTEM_PROMPTS)
    while True:
        system = systems[popularity.draw(setting.random)]
        yield Dialogue((_turn(setting, question, answer, pause=False),), system)


def _turn(setting: Setting, question: LengthRange, answer: LengthRange, *, pause: bool) -> Turn:
    output_len = answer.draw(setting.random)
    return Turn(
        said=setting.tree.content(question.draw(setting.random)),
        output_len=output_len,
        answer=setting.tree.content(output_len),
        think_s=setting.pause_s(THINK_S) if pause else 0.0,
    )
