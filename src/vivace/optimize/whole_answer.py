"""Answers that are too slow to be waited for: their first tokens, gone on at the same pace.

One sequence alone takes about as long for its last token as for its eighth, so a few tokens tell what an answer of a
hundred takes: attention over a hundred tokens more is little beside weights that are read for each.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from vivace.bench.records import RequestRecord
from vivace.bench.traffic.request import Traffic

ENOUGH_TOKENS = 8


def whole_answers(records: Sequence[RequestRecord], traffic: Traffic) -> tuple[list[RequestRecord], bool]:
    """The records, or, where none was answered, the answer that came furthest as long as it was to be; and whether
    it is the latter."""
    started = [one for one in records if one.status == "cancelled" and len(one.token_s) > 1]
    if not started or any(one.status == "ok" for one in records):
        return list(records), False
    wanted = {request.index: request.output_len for request in traffic.requests}
    furthest = max(started, key=lambda one: len(one.token_s))
    return [_extended(furthest, wanted[furthest.index])], True


def _extended(record: RequestRecord, output_len: int) -> RequestRecord:
    """With the mean gap between its tokens for those that are missing."""
    first, last = record.token_s[0], record.token_s[-1]
    gap = (last - first) / (len(record.token_s) - 1)
    missing = max(0, output_len - len(record.token_s))
    moments = (*record.token_s, *(last + gap * (number + 1) for number in range(missing)))
    return replace(record, status="ok", token_s=moments, output_len=len(moments), ended_s=moments[-1])
