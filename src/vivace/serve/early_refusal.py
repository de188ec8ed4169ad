"""Refusing before a body is parsed: in a flood, most of what a refusal costs is reading what was wanted."""

from __future__ import annotations

from starlette.requests import Request

from vivace.core.errors import OverloadedError
from vivace.serve.caller import Caller
from vivace.serve.service import Service
from vivace.serve.stories import RequestStory


def refuse_early(request: Request, body: bytes) -> None:
    """Raise `OverloadedError` for a body whose request admission would refuse whatever it says.

    The bound on waiting requests and the predicted wait depend on the key and the priority alone. A body in which
    that word does not occur (nor an escape that could spell it) has priority 0. What is wrong with the body, or with
    its model's name, is not told then: the server is too busy to look.
    """
    if b"priority" in body or b"\\u" in body:
        return
    service: Service = request.app.state.service
    if service.tracer is not None:  # a span tells what was asked for
        return
    caller = Caller.of(request)
    try:
        service.admission.refuse_unread(caller.key)
    except OverloadedError as refusal:
        story = RequestStory(caller.request_id, caller.key, 1, service.now())
        service.book.refuse(story, refusal, service.admission.num_queued)
        raise
