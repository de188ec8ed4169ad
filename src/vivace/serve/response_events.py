"""The event sequence of /v1/responses: items open, grow and close. The whole answer is what they leave behind."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from vivace.serve.tools.deltas import ContentDelta, OutputDelta, ReasoningDelta, ToolCallArguments, ToolCallStart
from vivace.serve.wire import responses as wire

T = TypeVar("T")


class ResponseEvents:
    """Feeds `response.output` and tells what happened. One item is open at most.

    `name` is the id that those of the items are made from.
    """

    def __init__(self, response: wire.ResponseObject, name: str) -> None:
        self._response = response
        self._name = name
        self._number = 0
        self._open: wire.OutputItem | None = None
        self._parts: list[str] = []  # of the open item's text

    def about_response(self, kind: str) -> wire.ResponseEvent:
        return self._numbered(lambda number: wire.ResponseEvent(kind, number, self._response))

    def push(self, deltas: list[OutputDelta], logprobs: list[wire.ResponseLogprob]) -> list[wire.Event]:
        """`logprobs` go with the first text among the deltas."""
        events: list[wire.Event] = []
        for delta in deltas:
            match delta:
                case ContentDelta(text):
                    events += self._text(text, logprobs)
                    logprobs = []
                case ReasoningDelta(text):
                    events += self._reasoning(text)
                case ToolCallStart(_, call_id, name):
                    events += self._begin(wire.FunctionCallItem(self._id("fc"), "in_progress", call_id, name, ""))
                case ToolCallArguments(_, text):
                    events += self._arguments(text)
        return events

    def close(self, status: wire.Status = "completed") -> list[wire.Event]:
        """End the open item, if there is one."""
        item, self._open = self._open, None
        text = "".join(self._parts)
        self._parts = []
        if item is None:
            return []
        item.status = status
        index = len(self._response.output) - 1
        return [
            *self._done(item, index, text),
            self._numbered(lambda number: wire.ItemEvent("response.output_item.done", number, index, item)),
        ]

    def _text(self, text: str, logprobs: list[wire.ResponseLogprob]) -> list[wire.Event]:
        events: list[wire.Event] = []
        if not isinstance(self._open, wire.MessageItem):
            message = wire.MessageItem(self._id("msg"), "in_progress", [])
            events += self._begin(message)
            events.append(self._part(message.id, "added", wire.OutputText("", [], [])))
            message.content.append(wire.OutputText("", [], []))
        item = self._open
        assert isinstance(item, wire.MessageItem)
        item.content[0].logprobs += logprobs
        self._parts.append(text)
        index = len(self._response.output) - 1
        delta = self._numbered(lambda number: wire.TextDelta(number, item.id, index, 0, text, logprobs))
        return [*events, delta]

    def _reasoning(self, text: str) -> list[wire.Event]:
        events: list[wire.Event] = []
        if not isinstance(self._open, wire.ReasoningItem):
            reasoning = wire.ReasoningItem(self._id("rs"), "in_progress", [], [])
            events += self._begin(reasoning)
            events.append(self._part(reasoning.id, "added", wire.ReasoningText("")))
            reasoning.content.append(wire.ReasoningText(""))
        item = self._open
        assert isinstance(item, wire.ReasoningItem)
        self._parts.append(text)
        index = len(self._response.output) - 1
        return [*events, self._numbered(lambda number: wire.ReasoningDelta(number, item.id, index, 0, text))]

    def _arguments(self, text: str) -> list[wire.Event]:
        item = self._open
        assert isinstance(item, wire.FunctionCallItem)
        self._parts.append(text)
        index = len(self._response.output) - 1
        return [self._numbered(lambda number: wire.ArgumentsDelta(number, item.id, index, text))]

    def _begin(self, item: wire.OutputItem) -> list[wire.Event]:
        """Close the item before and open `item`, which has no content yet."""
        events = self.close()
        self._open = item
        self._response.output.append(item)
        index = len(self._response.output) - 1
        # Encoded before the item grows: the event shows it empty.
        return [*events, self._numbered(lambda number: wire.ItemEvent(_ADDED, number, index, _empty(item)))]

    def _done(self, item: wire.OutputItem, index: int, text: str) -> list[wire.Event]:
        if isinstance(item, wire.FunctionCallItem):
            item.arguments = text
            return [self._numbered(lambda number: wire.ArgumentsDone(number, item.id, index, item.name, text))]
        item.content[0].text = text
        done: wire.Event
        if isinstance(item, wire.MessageItem):
            logprobs = item.content[0].logprobs
            done = self._numbered(lambda number: wire.TextDone(number, item.id, index, 0, text, logprobs))
        else:
            done = self._numbered(lambda number: wire.ReasoningDone(number, item.id, index, 0, text))
        return [done, self._part(item.id, "done", item.content[0])]

    def _part(self, item_id: str, what: str, part: wire.OutputText | wire.ReasoningText) -> wire.PartEvent:
        kind, index = f"response.content_part.{what}", len(self._response.output) - 1
        return self._numbered(lambda number: wire.PartEvent(kind, number, item_id, index, 0, part))

    def _numbered(self, make: Callable[[int], T]) -> T:
        event = make(self._number)
        self._number += 1
        return event

    def _id(self, prefix: str) -> str:
        return f"{prefix}_{self._name}_{len(self._response.output)}"


_ADDED = "response.output_item.added"


def _empty(item: wire.OutputItem) -> wire.OutputItem:
    """The item as it is now: events of one write are encoded together, when it has grown."""
    match item:
        case wire.MessageItem():
            return wire.MessageItem(item.id, item.status, [])
        case wire.ReasoningItem():
            return wire.ReasoningItem(item.id, item.status, [], [])
        case wire.FunctionCallItem():
            return wire.FunctionCallItem(item.id, item.status, item.call_id, item.name, "")
