"""What was answered, in the next turn's prompt."""

from __future__ import annotations

from collections.abc import Mapping

from vivace.bench.traffic.request import Message, Traffic, TrafficRequest


def answered_messages(traffic: Traffic, index: int, answers: Mapping[int, str]) -> tuple[Message, ...] | None:
    """The messages of request `index`, in which `answers` (texts by index of the request) stand for the text that was
    there to fill their place; None for a request without messages. An answer that is missing leaves its place as it
    was."""
    messages = traffic.requests[index].messages
    if messages is None:
        return None
    filled = list(messages)
    request: TrafficRequest = traffic.requests[index]
    while request.after is not None and request.messages is not None:
        if request.after in answers:
            place = len(request.messages) - 2
            filled[place] = {**filled[place], "content": answers[request.after]}
        request = traffic.requests[request.after]
    return tuple(filled)
