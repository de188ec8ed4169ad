"""What was answered, in the next turn's prompt."""

from __future__ import annotations

from dataclasses import replace

from vivace.bench.traffic.request import TrafficRequest


def with_answer(request: TrafficRequest, before: TrafficRequest, answer: str) -> TrafficRequest:
    """The turn that follows `before`, with `answer` in the place of its last message but one, the assistant's.

    Give `before` as it was sent, with the answers of the turns before it: the conversation then goes on in the very
    words that the server has in its prefix cache. A request without messages stays as it is.
    """
    if request.messages is None or before.messages is None or len(request.messages) != len(before.messages) + 2:
        return request
    answered, said = request.messages[-2:]
    return replace(request, messages=(*before.messages, {**answered, "content": answer}, said))
