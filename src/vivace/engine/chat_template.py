"""Messages to the prompt that a model was trained on: its chat template, rendered and encoded."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from vivace.core.errors import RequestError, TemplateError
from vivace.engine.template_sandbox import render_template, template_variables
from vivace.engine.tokenizer import Tokenizer

MAX_MESSAGE_DEPTH = 64
_CUT = "\udffd"  # marks the end of the message to be continued; a lone surrogate, which no input can contain
_SET_BY_US = frozenset(
    {
        "messages", "tools", "add_generation_prompt", "range", "dict", "namespace", "raise_exception", "strftime_now",
        "bos_token", "eos_token", "pad_token", "unk_token",
    }
)  # fmt: skip
_OUR_OPTIONS = frozenset({"tokenizer", "template", "max_tokens", "continue_final_message"})  # of `encode_chat`

Message = Mapping[str, Any]


def render_chat(
    template: str,
    messages: Sequence[Message],
    *,
    add_generation_prompt: bool = True,
    tools: Sequence[Mapping[str, Any]] | None = None,
    special_tokens: Mapping[str, str] | None = None,
    **variables: Any,
) -> str:
    """The prompt for `messages` (role, content, ...), by a Jinja chat template.

    `special_tokens` are the template's `bos_token`, `eos_token`, ...; `variables` are further ones that the template
    reads (`enable_thinking`). Raises `RequestError` for messages that are no plain data and for variables which the
    template does not read, `TemplateError` when the template refuses, fails, or leaves its budget.
    """
    return _render(template, messages, add_generation_prompt, tools, special_tokens or {}, variables, _as_is)


def encode_chat(
    tokenizer: Tokenizer,
    messages: Sequence[Message],
    *,
    add_generation_prompt: bool = True,
    tools: Sequence[Mapping[str, Any]] | None = None,
    template: str | None = None,
    continue_final_message: bool = False,
    max_tokens: int | None = None,
    **variables: Any,
) -> list[int]:
    """Prompt ids for `messages`. Control tokens come from the template's own text only, never from a message.

    `continue_final_message`: the prompt ends with the last message's content, for the model to go on from there.
    Raises `ContextLengthError` early, as `Tokenizer.encode` does, for what cannot fit into `max_tokens`.
    """
    template = tokenizer.chat_template if template is None else template
    if template is None:
        raise TemplateError("the model has no chat template; pass one, or use plain prompts")
    shield = tokenizer.control.shield
    if continue_final_message:
        messages = _with_cut(messages)
        add_generation_prompt = False
    text = _render(
        template, messages, add_generation_prompt, tools, special_token_names(tokenizer), variables, shield
    )
    if continue_final_message:
        text = _until_cut(text)
    return tokenizer.encode(text, add_special=False, parse_special=True, max_tokens=max_tokens)


def settable_variables(template: str) -> frozenset[str]:
    """Variables that a request may set: those that the template reads and that mean nothing to us."""
    return template_variables(template) - _SET_BY_US - _OUR_OPTIONS


def special_token_names(tokenizer: Tokenizer) -> dict[str, str]:
    """The template variables that name special tokens."""
    ids = {"bos_token": tokenizer.bos_id, "eos_token": tokenizer.eos_id, "pad_token": tokenizer.pad_id}
    names = {key: tokenizer.control.name_of.get(token_id) for key, token_id in ids.items() if token_id is not None}
    return {key: name for key, name in names.items() if name is not None}


def _with_cut(messages: Sequence[Message]) -> list[Message]:
    """`messages` with a mark at the end of the last one's content."""
    content = messages[-1].get("content") if messages else None
    if not isinstance(content, str):
        raise RequestError("continue_final_message needs a last message with text", param="continue_final_message")
    _checked_text(content, "messages")
    return [*messages[:-1], {**messages[-1], "content": content + _CUT}]


def _until_cut(text: str) -> str:
    head, cut, _ = text.rpartition(_CUT)
    if not cut:
        raise TemplateError("the chat template drops the last message, so it cannot be continued")
    return head.replace(_CUT, "")


def _as_is(text: str) -> str:
    return text


def _render(
    template: str,
    messages: Sequence[Message],
    add_generation_prompt: bool,
    tools: Sequence[Mapping[str, Any]] | None,
    special_tokens: Mapping[str, str],
    variables: Mapping[str, Any],
    shield: Callable[[str], str],
) -> str:
    _check_variables(template, variables)
    values: dict[str, Any] = {
        **{name: _plain(value, shield, name) for name, value in variables.items()},
        **special_tokens,
        "messages": _plain(list(messages), shield, "messages"),
        "tools": _plain(None if tools is None else list(tools), shield, "tools"),
        "add_generation_prompt": add_generation_prompt,
    }
    return render_template(template, values)


def _check_variables(template: str, variables: Mapping[str, Any]) -> None:
    if not variables:
        return
    accepted = settable_variables(template)
    for name in variables:
        if name not in accepted:
            known = ", ".join(sorted(accepted)) or "none"
            raise RequestError(f"the chat template reads no variable {name!r}; it reads: {known}", param=name)


def _plain(value: Any, shield: Callable[[str], str], param: str, depth: int = 0) -> Any:
    """A copy made of JSON's types alone, so that a template meets no object with methods of its own."""
    if depth > MAX_MESSAGE_DEPTH:
        raise RequestError(f"{param} nests deeper than {MAX_MESSAGE_DEPTH}", param=param)
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return shield(_checked_text(value, param))
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value)
    if isinstance(value, Mapping):
        return {
            _plain(key, shield, param, depth + 1): _plain(part, shield, param, depth + 1)
            for key, part in value.items()
        }
    if isinstance(value, list | tuple):
        return [_plain(part, shield, param, depth + 1) for part in value]
    raise RequestError(f"{param} holds a {type(value).__name__}; only JSON's types are allowed", param=param)


def _checked_text(text: str, param: str) -> str:
    try:
        text.removesuffix(_CUT).encode()
    except UnicodeEncodeError as error:
        raise RequestError(f"{param} holds a lone surrogate, which is no Unicode character", param=param) from error
    return str(text)
