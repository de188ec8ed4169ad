"""Dialogues of several turns, laid out as requests: conversations, agents' loops, single questions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from vivace.bench.traffic.load_shape import LoadShape
from vivace.bench.traffic.prompt_len import chat_len
from vivace.bench.traffic.prompt_text import TextEncoder
from vivace.bench.traffic.request import Message, TrafficRequest
from vivace.core.errors import ConfigError

ANSWER_SLACK = 8  # tokens kept free for each answer before: what a model said may take more tokens when it is read
MOST_MISSES = 1000  # dialogues in a row that do not fit: then there is no use in drawing more


@dataclass(frozen=True, slots=True)
class Turn:
    """What a user says, and the answer's length in tokens. `answer` stands in the next turn's prompt until the real
    answer is known. `think_s`: seconds between the last answer and this turn."""

    said: str
    output_len: int
    answer: str
    think_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Dialogue:
    """Turns that follow each other, under a system prompt or none."""

    turns: tuple[Turn, ...]
    system: str | None = None


@dataclass(frozen=True, slots=True)
class _Planned:
    """A request before its place among the others is known; `turn` counts from 0 within its dialogue."""

    dialogue: int
    turn: int
    after_s: float  # think time since the dialogue began
    request: TrafficRequest


def dialogue_requests(
    dialogues: Iterator[Dialogue],
    *,
    num_requests: int,
    load: LoadShape,
    encoder: TextEncoder,
    max_model_len: int,
    seed: int,
) -> tuple[TrafficRequest, ...]:
    """The first `num_requests` turns, or all that there are, in the order in which they can be sent.

    A dialogue ends before the turn that would not fit `max_model_len` tokens with its answer; a first turn has its
    answer cut to fit, and one that does not fit at all is left out.
    Raises `ConfigError` where none fits.
    """
    planned: list[_Planned] = []
    num_turns: list[int] = []
    num_misses = 0  # in a row
    for dialogue in dialogues:
        room = num_requests - len(planned)
        if room <= 0 or num_misses == MOST_MISSES:
            break
        turns = _fitting_turns(dialogue, len(num_turns), room, encoder, max_model_len)
        num_misses = 0 if turns else num_misses + 1
        if turns:
            planned += turns
            num_turns.append(len(turns))
    if not planned:
        raise ConfigError(f"no dialogue fits a context of {max_model_len} tokens: raise max_model_len")
    return _in_order(planned, load.arrivals(num_turns, seed), load.concurrency)


def _fitting_turns(
    dialogue: Dialogue, number: int, room: int, encoder: TextEncoder, max_model_len: int
) -> list[_Planned]:
    messages: list[Message] = [] if dialogue.system is None else [{"role": "system", "content": dialogue.system}]
    planned: list[_Planned] = []
    thought_s = 0.0
    for turn in dialogue.turns[:room]:
        messages.append({"role": "user", "content": turn.said})
        prompt_len = chat_len(encoder, messages)
        room_left = max_model_len - prompt_len - ANSWER_SLACK * len(planned)
        output_len = turn.output_len if planned else min(turn.output_len, room_left)
        if output_len < 1 or output_len > room_left:
            break
        thought_s += turn.think_s
        request = TrafficRequest(-1, prompt_len, output_len, messages=tuple(messages), think_s=turn.think_s)
        planned.append(_Planned(number, len(planned), thought_s, request))
        messages.append({"role": "assistant", "content": turn.answer})
    return planned


def _in_order(
    planned: list[_Planned], arrivals: list[float | None], concurrency: int | None
) -> tuple[TrafficRequest, ...]:
    """By the earliest moment at which each can go out; in a closed loop, by turns of as many dialogues as there are
    users."""

    def moment(one: _Planned) -> tuple[float, int, int]:
        arrival = arrivals[one.dialogue]
        if arrival is None:
            return one.dialogue // (concurrency or 1), one.turn, one.dialogue
        return arrival + one.after_s, one.dialogue, one.turn

    index_of: dict[tuple[int, int], int] = {}
    requests: list[TrafficRequest] = []
    for index, one in enumerate(sorted(planned, key=moment)):
        index_of[one.dialogue, one.turn] = index
        first = one.turn == 0
        requests.append(
            replace(
                one.request,
                index=index,
                arrival_s=arrivals[one.dialogue] if first else None,
                after=None if first else index_of[one.dialogue, one.turn - 1],
                think_s=0.0 if first else one.request.think_s,
            )
        )
    return tuple(requests)
