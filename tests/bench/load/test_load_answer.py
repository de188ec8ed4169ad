"""Streams as servers of each make send them, and answers that are none."""

from __future__ import annotations

import json

import pytest

from vivace.bench.load.answer import StreamedAnswer

HEADERS = {"content-type": "text/event-stream; charset=utf-8"}


def read(*events: object, ended: bool = True) -> StreamedAnswer:
    """Each event a second after the one before."""
    answer = StreamedAnswer()
    answer.begin(200, HEADERS)
    for number, event in enumerate(events, 1):
        text = event if isinstance(event, str) else json.dumps(event)
        answer.receive(float(number), f"data: {text}\n\n".encode())
    if ended:
        answer.end(float(len(events)))
    return answer


def delta(**values: object) -> dict[str, object]:
    return {"choices": [{"index": 0, "delta": values, "finish_reason": None}]}


def text(value: str) -> dict[str, object]:
    return {"choices": [{"index": 0, "text": value}]}


def usage(total: int, cached: int | None = None) -> dict[str, object]:
    details = {} if cached is None else {"prompt_tokens_details": {"cached_tokens": cached}}
    return {"usage": {"prompt_tokens": 11, "completion_tokens": total, "total_tokens": 11 + total, **details}}


def test_vllm_with_running_usage() -> None:
    answer = read(
        {**delta(role="assistant", content=""), **usage(0)},
        {**delta(content="Hel"), **usage(1)},
        {**delta(content="lo you"), **usage(3)},
        {"choices": [], **usage(3, cached=8)},
        "[DONE]",
    )
    assert answer.outcome() == ("ok", None)
    assert answer.token_s(9.0) == (2.0, 3.0, 3.0)
    assert (answer.text, answer.num_prompt_tokens, answer.num_cached_tokens) == ("Hello you", 11, 8)


def test_vllm_with_token_ids() -> None:
    first = {"choices": [{"index": 0, "text": "a", "token_ids": [5]}]}
    second = {"choices": [{"index": 0, "text": "bcd", "token_ids": [6, 7, 8]}]}
    assert read(first, second, "[DONE]").token_s(9.0) == (1.0, 2.0, 2.0, 2.0)


def test_llama_cpp_with_timings() -> None:
    events = [{**delta(content="w"), "timings": {"predicted_n": number, "cache_n": 4}} for number in (1, 3)]
    answer = read(delta(role="assistant", content=None), *events, {"choices": [], **usage(3)}, "[DONE]")
    assert answer.token_s(9.0) == (2.0, 3.0, 3.0)
    assert answer.num_cached_tokens == 4


def test_tgi_with_a_token_an_event() -> None:
    answer = read(text("a"), text("b"), {**text("c"), "usage": None}, {"choices": [], **usage(3)}, "[DONE]")
    assert answer.token_s(9.0) == (1.0, 2.0, 3.0)
    assert answer.text == "abc"


def test_a_final_count_corrects_events() -> None:
    answer = read(text("aaaa"), text("bbbbbbbbbbbb"), {"choices": [], **usage(4)}, "[DONE]")
    assert answer.token_s(9.0) == (1.0, 2.0, 2.0, 2.0)


def test_reasoning_and_calls_are_tokens_too() -> None:
    answer = read(delta(reasoning_content="hm"), delta(reasoning="so"), delta(tool_calls=[{"index": 0}]), "[DONE]")
    assert answer.token_s(9.0) == (1.0, 2.0, 3.0)
    assert answer.text == ""


def test_vivace_tells_the_wait() -> None:
    answer = read(text("a"), {"choices": [], **usage(1), "timings": {"queue_ms": 12.5, "predicted_n": 1}}, "[DONE]")
    assert answer.queue_s == 0.0125


def test_a_stream_that_stops_keeps_what_came() -> None:
    answer = read(text("a"), text("b"), ended=False)
    assert answer.token_s(9.0) == (1.0, 2.0)


@pytest.mark.parametrize(
    ("events", "message"),
    [
        (['{"error": {"message": "out of memory", "code": 500}}'], "the stream ended in an error: out of memory"),
        ([text("a"), '{"error": "Request failed", "error_type": "generation"}'], "error: Request failed"),
        (["not json"], "is not understood: not json"),
        (["[DONE]"], "the stream had no tokens"),
    ],
)
def test_streams_that_fail(events: list[object], message: str) -> None:
    outcome, error = read(*events).outcome()
    assert outcome == "error"
    assert error is not None
    assert message in error


@pytest.mark.parametrize(
    ("status", "body", "outcome", "message"),
    [
        (429, b'{"error": {"message": "full"}}', "refused", "refused with 429: full (come again in 7 s)"),
        (503, b"<html>\n no\x1b[1m </html>", "refused", "refused with 503: <html> no�[1m </html>"),
        (400, b'{"object": "error", "message": "bad", "code": 400}', "error", "answered with 400: bad"),
        (422, b'{"detail": [{"loc": ["body"]}]}', "error", "answered with 422: [{'loc': ['body']}]"),
        (200, b'{"choices": []}', "error", "no stream of events came: application/json"),
        (500, b"x" * 5000, "error", "answered with 500: " + "x" * 300 + "…"),
    ],
)
def test_answers_that_are_no_stream(status: int, body: bytes, outcome: str, message: str) -> None:
    answer = StreamedAnswer()
    answer.begin(
        status,
        {"content-type": "application/json", "retry-after": "7"}
        if status == 429
        else {"content-type": "application/json"},
    )
    answer.receive(1.0, body)
    answer.end(1.0)
    assert answer.outcome() == (outcome, message)


def test_tokens_are_told_as_they_come() -> None:
    told: list[tuple[float, int]] = []
    answer = StreamedAnswer(lambda when, number: told.append((when, number)))
    answer.begin(200, HEADERS)
    for when, event in enumerate(
        ({**text("a"), **usage(1)}, {**text("bc"), **usage(3)}, {"choices": [], **usage(3)})
    ):
        answer.receive(float(when), f"data: {json.dumps(event)}\n\n".encode())
    assert told == [(0.0, 1), (1.0, 2)]


def test_a_stream_that_broke_off_neatly_is_no_whole_answer() -> None:
    """A proxy ends its chunked body as it should although the server behind it died."""
    outcome, error = read(text("a"), text("b")).outcome()
    assert (outcome, error) == ("error", "the stream broke off: neither a finish reason nor [DONE] came")


def test_a_finish_reason_ends_a_stream_as_well_as_done() -> None:
    last = {"choices": [{"index": 0, "text": "b", "finish_reason": "length"}]}
    assert read(text("a"), last).outcome() == ("ok", None)
