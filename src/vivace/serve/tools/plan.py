"""From a chat request to what is rendered, what is enforced and how the answer is read.

How the chat route uses it:

    constraint = read_constraint(response_format=..., structured_outputs=..., guided_json=..., ...)
    plan = chat_plan(tokenizer, messages, tools=..., tool_choice=..., constraint=constraint)   # CPU work: in a thread
    plan = await plan.checked(compiler.check)          # RequestError names the parameter at fault
    params = replace(params, structured_outputs=plan.structured_outputs,
                     skip_special_tokens=params.skip_special_tokens and plan.skip_special_tokens)
    parser = plan.parser()                             # one for each continuation
    deltas = parser.push(piece.text); ...; deltas += parser.finish()
    finish_reason = "tool_calls" if reason == "stop" and parser.num_tool_calls else reason
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from vivace.core.errors import RequestError, TemplateError
from vivace.core.structured_outputs import StructuredOutputs, ThinkTags
from vivace.engine.chat_template import encode_chat
from vivace.engine.structured_grammar import rule_body
from vivace.engine.tokenizer import Tokenizer
from vivace.serve.reasoning import THINK_END, THINK_START, ReasoningParser, defines_think_tags, opens_thinking
from vivace.serve.response_format import Constraint
from vivace.serve.tools.call_parser import CallParser
from vivace.serve.tools.call_text import CallSyntax
from vivace.serve.tools.definitions import Tool, ToolChoice, read_tool_choice, read_tools
from vivace.serve.tools.deltas import ContentParser, OutputParser
from vivace.serve.tools.format import Rendering, ToolFormat
from vivace.serve.tools.generic import without_system
from vivace.serve.tools.history import read_messages
from vivace.serve.tools.recognition import recognise_format

_NUM_TAIL_IDS = 16  # "<think>" and a line end, letter by letter

_RESERVED = {"tokenizer", "messages", "tools"}

Check = Callable[[StructuredOutputs], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class ChatPlan:
    """`prompt_ids`: the rendered prompt. `structured_outputs`: for `SamplingParams`, None where nothing is enforced.

    `skip_special_tokens` is False where the markers of calls or reasoning are control tokens, which the parser must
    see. `constraint_param` is the request's parameter that `structured_outputs` comes from.
    """

    prompt_ids: list[int]
    structured_outputs: StructuredOutputs | None
    constraint_param: str
    skip_special_tokens: bool
    format: ToolFormat
    tools: tuple[Tool, ...]  # that may be called
    reasons: bool  # the template defines think tags
    opened: bool  # and the prompt has opened them
    may_relax: bool  # calls are the model's choice: without enforcement they are still read

    def parser(self) -> OutputParser:
        """A parser for one continuation's text."""
        answer: OutputParser = ContentParser()
        if self.tools:
            layout = self.format.layout
            syntax = CallSyntax(frozenset(tool.name for tool in self.tools), layout.arguments_key)
            streams = self.structured_outputs is not None
            answer = CallParser(layout.frame, syntax, self.format.new_id, streams=streams)
        return ReasoningParser(answer, opened=self.opened) if self.reasons else answer

    async def checked(self, check: Check) -> ChatPlan:
        """The plan, once `check` has compiled its constraint.

        Where a tool's schema cannot be enforced and nobody asked for it (tool_choice "auto", no strict tool), the
        plan goes on without. Raises `RequestError` with the parameter at fault.
        """
        if self.structured_outputs is None:
            return self
        try:
            await check(self.structured_outputs)
        except RequestError as error:
            if self.may_relax:
                return replace(self, structured_outputs=None)
            raise RequestError(str(error), param=self.constraint_param) from error
        return self


def chat_plan(
    tokenizer: Tokenizer,
    messages: Sequence[Mapping[str, Any]],
    *,
    tools: Sequence[Mapping[str, Any]] | None = None,
    tool_choice: str | Mapping[str, Any] | None = None,
    parallel_tool_calls: bool = True,
    constraint: Constraint | None = None,
    template: str | None = None,
    template_variables: Mapping[str, Any] | None = None,
    add_generation_prompt: bool = True,
    continue_final_message: bool = False,
    max_tokens: int | None = None,
) -> ChatPlan:
    """Everything that follows from the messages and tools of one chat request.

    `template` overrides the tokenizer's own; `template_variables` are the request's `chat_template_kwargs`.
    Raises `RequestError` for what the request got wrong and `TemplateError` for what the template refuses.
    """
    template = tokenizer.chat_template if template is None else template
    if template is None:
        raise TemplateError("the model has no chat template; use /v1/completions, or start with --chat-template")
    defined = read_tools(tools)
    choice = read_tool_choice(tool_choice, defined, parallel_tool_calls)
    offered = defined if choice.mode != "none" else []
    style = recognise_format(template)
    rendering = style.render(read_messages(messages), offered)
    reserved = _RESERVED & (template_variables or {}).keys()
    if reserved:
        raise RequestError(f"the chat template's variable {min(reserved)} is not the request's", param=min(reserved))
    options = {
        **(template_variables or {}),
        "template": template,
        "add_generation_prompt": add_generation_prompt,
        "continue_final_message": continue_final_message,
        "max_tokens": max_tokens,
    }
    prompt_ids = _encode(tokenizer, style, rendering, options)
    reasons = defines_think_tags(template)
    opened = reasons and opens_thinking(tokenizer.decode(prompt_ids[-_NUM_TAIL_IDS:], skip_special=False))
    enforcement = _Enforcement(tokenizer, style, offered, choice, constraint)
    return ChatPlan(
        prompt_ids=prompt_ids,
        structured_outputs=enforcement.outputs(_think_tags(reasons, opened)),
        constraint_param=enforcement.param,
        skip_special_tokens=not _has_control_markers(tokenizer, style, bool(offered), reasons),
        format=style,
        tools=tuple(offered),
        reasons=reasons,
        opened=opened,
        may_relax=enforcement.may_relax,
    )


def _encode(tokenizer: Tokenizer, style: ToolFormat, rendering: Rendering, options: Mapping[str, Any]) -> list[int]:
    try:
        return encode_chat(tokenizer, rendering.messages, tools=rendering.tools, **options)
    except TemplateError:
        moved = without_system(rendering.messages) if style.name == "generic" else rendering.messages
        if moved == rendering.messages:
            raise
        return encode_chat(tokenizer, moved, tools=rendering.tools, **options)


def _think_tags(reasons: bool, opened: bool) -> ThinkTags | None:
    return ThinkTags("" if opened else THINK_START, THINK_END) if reasons else None


def _has_control_markers(tokenizer: Tokenizer, style: ToolFormat, has_tools: bool, reasons: bool) -> bool:
    frame = style.layout.frame
    names = [*((frame.marker, frame.closing) if has_tools else ()), *((THINK_START, THINK_END) if reasons else ())]
    return any(tokenizer.control.id_of(name) is not None for name in names)


@dataclass(frozen=True, slots=True)
class _Enforcement:
    """What the sampler must keep to, from tools and constraint together."""

    tokenizer: Tokenizer
    style: ToolFormat
    tools: Sequence[Tool]
    choice: ToolChoice
    constraint: Constraint | None

    @property
    def param(self) -> str:
        """The request's parameter at fault where this cannot be enforced."""
        return "tools" if self.tools or self.constraint is None else self.constraint.param

    @property
    def may_relax(self) -> bool:
        return self.choice.mode == "auto" and self.constraint is None and not any(tool.strict for tool in self.tools)

    def outputs(self, think: ThinkTags | None) -> StructuredOutputs | None:
        """Raises `RequestError` for tools that are too long to be enforced but must be."""
        try:
            return self._outputs(think)
        except RequestError as error:
            if self.may_relax:
                return None
            raise RequestError(str(error), param=self.param) from error

    def _outputs(self, think: ThinkTags | None) -> StructuredOutputs | None:
        if not self.tools:
            return None if self.constraint is None else replace(self.constraint.outputs, think=think)
        answer = None
        if self.constraint is not None and self.choice.mode == "auto":
            answer = rule_body(self.constraint.outputs)
        choice = self.choice if self.style.parallel else replace(self.choice, parallel=False)
        grammar = self.style.layout.grammar(self.tools, choice, self.tokenizer.control.id_of, answer)
        is_free = self.choice.mode == "auto" and answer is None
        return StructuredOutputs("grammar", grammar, think=None if is_free else think)
