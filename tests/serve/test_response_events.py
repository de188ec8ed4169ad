"""The events of /v1/responses, and the object that they leave behind."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from vivace.serve.response_events import ResponseEvents
from vivace.serve.tools.deltas import ContentDelta, OutputDelta, ReasoningDelta, ToolCallArguments, ToolCallStart
from vivace.serve.wire.responses import Event, ResponseObject

EVENTS: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)  # how the official client reads them
REASONING: list[OutputDelta] = [ReasoningDelta("Let me "), ReasoningDelta("see.")]
CONTENT: list[OutputDelta] = [ContentDelta("It is "), ContentDelta("raining.")]
CALL: list[OutputDelta] = [
    ToolCallStart(0, "call_1", "get_weather"),
    ToolCallArguments(0, '{"city":'),
    ToolCallArguments(0, ' "Oslo"}'),
]
SECOND_CALL: list[OutputDelta] = [ToolCallStart(1, "call_2", "get_time"), ToolCallArguments(1, "{}")]


def new_response() -> ResponseObject:
    return ResponseObject(
        id="resp_1",
        created_at=1,
        model="m",
        status="in_progress",
        output=[],
        temperature=1.0,
        top_p=1.0,
        instructions=None,
        max_output_tokens=None,
        metadata={},
        parallel_tool_calls=True,
        text={"format": {"type": "text"}},
        tool_choice="auto",
        tools=[],
        top_logprobs=0,
        user=None,
    )


def encoded(events: list[Event]) -> list[dict[str, Any]]:
    """As JSON at once: a later event must not change an earlier one."""
    return [msgspec.json.decode(msgspec.json.encode(event)) for event in events]


def run(deltas: list[OutputDelta], *, one_by_one: bool) -> tuple[list[dict[str, Any]], ResponseObject]:
    response = new_response()
    events = ResponseEvents(response, "1")
    seen = encoded([events.about_response("response.created")])
    for group in [[delta] for delta in deltas] if one_by_one else [deltas]:
        seen += encoded(events.push(group, []))
    seen += encoded(events.close())
    response.status = "completed"
    return seen + encoded([events.about_response("response.completed")]), response


@pytest.mark.parametrize("one_by_one", [True, False])
def test_reasoning_content_and_calls(one_by_one: bool) -> None:
    seen, response = run([*REASONING, *CONTENT, *CALL, *SECOND_CALL], one_by_one=one_by_one)
    for event in seen:
        EVENTS.validate_python(event)
    assert [event["sequence_number"] for event in seen] == list(range(len(seen)))
    items = [item["type"] for item in seen[-1]["response"]["output"]]
    assert items == ["reasoning", "message", "function_call", "function_call"]
    read = Response.model_validate(msgspec.to_builtins(response))
    assert read.output_text == "It is raining."
    assert read.output[0].content[0].text == "Let me see."
    assert [item.arguments for item in read.output[2:]] == ['{"city": "Oslo"}', "{}"]
    assert all(item.status == "completed" for item in read.output)


def test_items_open_empty_and_close_whole() -> None:
    seen, _ = run([*CONTENT, *CALL], one_by_one=False)
    added = [event for event in seen if event["type"] == "response.output_item.added"]
    assert [event["item"].get("content", event["item"].get("arguments")) for event in added] == [[], ""]
    assert [event["output_index"] for event in added] == [0, 1]
    done = [event["item"] for event in seen if event["type"] == "response.output_item.done"]
    assert done == seen[-1]["response"]["output"]
    kinds = [event["type"].removeprefix("response.") for event in seen]
    assert kinds == [
        "created",
        "output_item.added",
        "content_part.added",
        "output_text.delta",
        "output_text.delta",
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "output_item.added",
        "function_call_arguments.delta",
        "function_call_arguments.delta",
        "function_call_arguments.done",
        "output_item.done",
        "completed",
    ]


def test_an_empty_answer_has_no_item() -> None:
    seen, response = run([], one_by_one=True)
    assert [event["type"] for event in seen] == ["response.created", "response.completed"]
    assert response.output == []
