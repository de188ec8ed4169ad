"""The messages of a conversation, as chat completions take them. Text only: images and audio are refused by type."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from vivace.serve.wire.sampling import Name


class TextPart(Struct, forbid_unknown_fields=True):
    type: Literal["text"]  # no tag: where there is one kind of part only, msgspec does not ask for its tag
    text: str


class AnswerPart(Struct, tag_field="type", tag="text", forbid_unknown_fields=True):
    text: str


class RefusalPart(Struct, tag_field="type", tag="refusal", forbid_unknown_fields=True):
    refusal: str


Parts = Annotated[list[TextPart], Meta(min_length=1)]
AssistantParts = Annotated[list[AnswerPart | RefusalPart], Meta(min_length=1)]


class SystemMessage(Struct, tag_field="role", tag="system", forbid_unknown_fields=True):
    content: str | Parts
    name: Name | None = None


class DeveloperMessage(Struct, tag_field="role", tag="developer", forbid_unknown_fields=True):
    content: str | Parts
    name: Name | None = None


class UserMessage(Struct, tag_field="role", tag="user", forbid_unknown_fields=True):
    content: str | Parts
    name: Name | None = None


class FunctionCall(Struct, forbid_unknown_fields=True):
    name: str
    arguments: str


class ToolCall(Struct, forbid_unknown_fields=True):
    id: str
    function: FunctionCall
    type: Literal["function"] = "function"
    index: int | None = None  # clients that join a stream's deltas leave it in


class AssistantMessage(Struct, tag_field="role", tag="assistant", forbid_unknown_fields=True):
    """What the model said before. Clients send back what they received, fields without a value included."""

    content: str | AssistantParts | None = None
    refusal: str | None = None
    name: Name | None = None
    tool_calls: list[ToolCall] | None = None
    reasoning_content: str | None = None
    annotations: list[Any] | None = None
    audio: None = None
    function_call: None = None


class ToolMessage(Struct, tag_field="role", tag="tool", forbid_unknown_fields=True):
    content: str | Parts
    tool_call_id: str
    name: Name | None = None


Message = SystemMessage | DeveloperMessage | UserMessage | AssistantMessage | ToolMessage
Messages = Annotated[list[Message], Meta(min_length=1)]


def text_of(content: str | list[TextPart] | list[AnswerPart | RefusalPart] | None) -> str:
    """A message's text; parts follow each other without a separator, as templates join them."""
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    return "".join(part.refusal if isinstance(part, RefusalPart) else part.text for part in content)


def template_messages(messages: list[Message]) -> list[dict[str, Any]]:
    """Plain data for a chat template: content is always text, a tool call's arguments stay JSON text."""
    return [_template_message(message) for message in messages]


def _template_message(message: Message) -> dict[str, Any]:
    role = message.__struct_config__.tag
    plain: dict[str, Any] = {"role": role, "content": text_of(message.content)}
    if message.name is not None:
        plain["name"] = message.name
    if isinstance(message, ToolMessage):
        plain["tool_call_id"] = message.tool_call_id
    if isinstance(message, AssistantMessage):
        if message.reasoning_content is not None:
            plain["reasoning_content"] = message.reasoning_content
        if message.tool_calls:
            plain["tool_calls"] = [
                {
                    "id": call.id,
                    "type": "function",
                    "function": {"name": call.function.name, "arguments": call.function.arguments},
                }
                for call in message.tool_calls
            ]
    return plain


def num_chars(messages: list[Message]) -> int:
    """About how long the conversation is as text."""
    return sum(len(text_of(message.content)) + 16 for message in messages)
