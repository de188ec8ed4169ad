"""Plans of chats with tools, on the published templates and the embedded model."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from text_cuts import parsed

from vivace.core.errors import RequestError, TemplateError
from vivace.core.sampling import SamplingParams
from vivace.core.structured_outputs import StructuredOutputs
from vivace.engine.llm import LLM
from vivace.engine.structured_output import ConstraintCompiler
from vivace.engine.tokenizer import load_tokenizer
from vivace.serve.response_format import Constraint
from vivace.serve.tools.plan import ChatPlan, chat_plan

WEATHER = {
    "type": "object",
    "properties": {"city": {"enum": ["Paris", "Rome"]}, "days": {"type": "integer", "minimum": 1, "maximum": 9}},
    "required": ["city"],
}
TOOLS: list[dict[str, Any]] = [
    {"type": "function", "function": {"name": "get_weather", "description": "Forecast", "parameters": WEATHER}},
    {"type": "function", "function": {"name": "now"}},
]
SCHEMAS = {"get_weather": {**WEATHER, "additionalProperties": False}, "now": {"type": "object", "maxProperties": 0}}
USER = {"role": "user", "content": "Is it warm in Rome?"}
CALL = {"id": "call_1", "type": "function", "function": {"name": "get_weather", "arguments": '{"city": "Rome"}'}}
FORMATS = {
    None: "generic",
    "Qwen-Qwen2.5-7B-Instruct": "hermes",
    "Qwen-Qwen3-0.6B": "hermes",
    "mistralai-Mistral-Nemo-Instruct-2407": "mistral",
    "meta-llama-Llama-3.1-8B-Instruct": "llama",
    "meta-llama-Llama-3.2-3B-Instruct": "llama",
    "google-gemma-2-2b-it": "generic",
    "microsoft-Phi-3.5-mini-instruct": "generic",
    "deepseek-ai-DeepSeek-R1-Distill-Qwen-32B": "generic",
    "HuggingFaceTB-SmolLM3-3B": "generic",
    "ibm-granite-granite-3.3-2B-Instruct": "generic",
}


@pytest.fixture(scope="module")
def llm() -> LLM:
    return LLM(max_num_seqs=8)


@pytest.fixture(params=FORMATS, ids=str)
def name(request: pytest.FixtureRequest) -> str | None:
    return request.param  # type: ignore[no-any-return]


@pytest.fixture
def template(name: str | None, shared: Path) -> str | None:
    return None if name is None else (shared / "tokenizers" / "chat_templates" / f"{name}.jinja").read_text()


def prompt(llm: LLM, plan: ChatPlan) -> str:
    return llm.tokenizer.decode(plan.prompt_ids, skip_special=False)


def test_templates_are_recognised(llm: LLM, name: str | None, template: str | None) -> None:
    plan = chat_plan(llm.tokenizer, [USER], tools=TOOLS, template=template)
    assert plan.format.name == FORMATS[name]
    assert "get_weather" in prompt(llm, plan)
    assert "Forecast" in prompt(llm, plan)
    silent = chat_plan(llm.tokenizer, [USER], tools=TOOLS, tool_choice="none", template=template)
    assert "get_weather" not in prompt(llm, silent)
    assert silent.structured_outputs is None


def test_what_the_template_writes_is_what_the_parser_reads(llm: LLM, template: str | None) -> None:
    """A call in the history, cut out of the rendered prompt, is parsed to the same call."""
    plan = chat_plan(
        llm.tokenizer,
        [USER, {"role": "assistant", "content": None, "tool_calls": [CALL]}],
        tools=TOOLS,
        template=template,
        add_generation_prompt=False,
    )
    text = prompt(llm, plan)
    begin = text.rfind(plan.format.layout.frame.marker)
    _, _, calls = parsed(plan.parser(), [text[begin if begin >= 0 else text.rfind('{"name"') :]])
    assert [(name, json.loads(arguments)) for name, arguments in calls] == [("get_weather", {"city": "Rome"})]


def test_results_reach_the_prompt(llm: LLM, template: str | None) -> None:
    second = {**CALL, "id": "call_2", "function": {"name": "now", "arguments": ""}}
    messages = [
        USER,
        {"role": "assistant", "content": "", "tool_calls": [CALL, second]},
        {"role": "tool", "tool_call_id": "call_1", "content": [{"type": "text", "text": "31 degrees"}]},
        {"role": "tool", "tool_call_id": "call_2", "content": "noon"},
    ]
    text = prompt(llm, chat_plan(llm.tokenizer, messages, tools=TOOLS, template=template))
    assert text.index("31 degrees") < text.index("noon")
    assert text.count("31 degrees") == text.count("noon") == 1


def answer(llm: LLM, plan: ChatPlan, **values: Any) -> tuple[str, str, list[tuple[str, str]], str | None]:
    params = SamplingParams(
        max_tokens=250,
        structured_outputs=plan.structured_outputs,
        skip_special_tokens=plan.skip_special_tokens,
        **values,
    )
    output = llm.generate([plan.prompt_ids], params)[0].outputs[0]
    return (*parsed(plan.parser(), list(output.text)), output.finish_reason)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_required_calls_are_valid_from_a_weak_model(llm: LLM, template: str | None, temperature: float) -> None:
    plan = chat_plan(llm.tokenizer, [USER], tools=TOOLS, tool_choice="required", template=template)
    content, _, calls, finish = answer(llm, plan, temperature=temperature, seed=4)
    assert finish in ("stop", "length")
    if plan.reasons and not calls:  # it may think for as long as it has tokens
        assert finish == "length"
        return
    assert content == ""
    assert calls
    for function, arguments in calls if finish == "stop" else calls[:-1]:
        jsonschema.validate(json.loads(arguments), SCHEMAS[function])


def test_a_named_function_is_called_once(llm: LLM, template: str | None) -> None:
    choice = {"type": "function", "function": {"name": "get_weather"}}
    plan = chat_plan(
        llm.tokenizer,
        [USER],
        tools=TOOLS,
        tool_choice=choice,
        template=template,
        template_variables={"enable_thinking": False} if template and "enable_thinking" in template else None,
    )
    for seed in range(3):
        content, reasoning, calls, finish = answer(llm, plan, temperature=1.0, seed=seed)
        if plan.reasons and reasoning:
            continue
        assert (content, finish, [function for function, _ in calls]) == ("", "stop", ["get_weather"])
        jsonschema.validate(json.loads(calls[0][1]), SCHEMAS["get_weather"])


def allows(llm: LLM, outputs: StructuredOutputs, text: str) -> bool:
    """Whether `text`, in the longest tokens that are allowed, can be written and may end."""
    constraint = ConstraintCompiler(llm.tokenizer, llm.tokenizer.eos_ids).compile(outputs).begin()
    rest = text.encode()
    while True:
        mask = np.unpackbits(np.frombuffer(constraint.allowed_tokens(), np.uint8), bitorder="little")
        if not rest:
            return any(mask[token] for token in llm.tokenizer.eos_ids)
        pieces = {llm.tokenizer.token_bytes(int(token)): int(token) for token in np.flatnonzero(mask)}
        piece = max((piece for piece in pieces if piece and rest.startswith(piece)), key=len, default=None)
        if piece is None:
            return False
        constraint.accept(pieces[piece])
        rest = rest[len(piece) :]


GOOD = '{"name": "get_weather", "arguments": {"city": "Rome"}}'


@pytest.mark.parametrize(
    ("parallel", "text", "expected"),
    [
        (True, "Just text, { and < and all.", True),
        (True, "", True),
        (True, f"Let me see.\n<tool_call>\n{GOOD}\n</tool_call>", True),
        (True, f"<tool_call>\n{GOOD}\n</tool_call>\n<tool_call>\n{GOOD}\n</tool_call> done", True),
        (True, "<tool_call>\nno</tool_call>", False),
        (True, '<tool_call>\n{"name": "other", "arguments": {}}\n</tool_call>', False),
        (True, '<tool_call>\n{"name": "get_weather", "arguments": {}}\n</tool_call>', False),
        (
            True,
            '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Rome", "extra": 1}}\n</tool_call>',
            False,
        ),
        (False, f"Well <tool_call>\n{GOOD}\n</tool_call>", True),
        (False, f"<tool_call>\n{GOOD}\n</tool_call>\n<tool_call>\n{GOOD}\n</tool_call>", False),
    ],
)
def test_auto_is_free_text_until_a_call_begins(llm: LLM, parallel: bool, text: str, expected: bool) -> None:
    plan = chat_plan(llm.tokenizer, [USER], tools=TOOLS, parallel_tool_calls=parallel)
    assert plan.structured_outputs is not None
    assert allows(llm, plan.structured_outputs, text) is expected


NOW = '{"name": "now", "arguments": {}}'
L_NOW = '{"name": "now", "parameters": {}}'


@pytest.mark.parametrize(
    ("model", "text", "expected"),
    [
        ("mistralai-Mistral-Nemo-Instruct-2407", "Only text [TOOL", True),
        ("mistralai-Mistral-Nemo-Instruct-2407", f"[TOOL_CALLS][{GOOD}, {NOW}]", True),
        ("mistralai-Mistral-Nemo-Instruct-2407", f"Well: [TOOL_CALLS][{NOW}]", True),
        ("mistralai-Mistral-Nemo-Instruct-2407", "[TOOL_CALLS] none", False),
        ("mistralai-Mistral-Nemo-Instruct-2407", "[TOOL_CALLS][]", False),
        ("meta-llama-Llama-3.1-8B-Instruct", "Only text { and so on", True),
        ("meta-llama-Llama-3.1-8B-Instruct", "", True),
        ("meta-llama-Llama-3.1-8B-Instruct", L_NOW, True),
        ("meta-llama-Llama-3.1-8B-Instruct", f"<|python_tag|>{L_NOW}", True),
        ("meta-llama-Llama-3.1-8B-Instruct", '{"name": "other", "parameters": {}}', False),
        ("meta-llama-Llama-3.1-8B-Instruct", f"{L_NOW}; {L_NOW}", False),
    ],
)
def test_auto_in_the_other_formats(llm: LLM, shared: Path, model: str, text: str, expected: bool) -> None:
    template = (shared / "tokenizers" / "chat_templates" / f"{model}.jinja").read_text()
    plan = chat_plan(llm.tokenizer, [USER], tools=TOOLS, template=template)
    assert plan.structured_outputs is not None
    assert allows(llm, plan.structured_outputs, text) is expected


def test_auto_with_a_response_format_is_a_call_or_the_format(llm: LLM) -> None:
    constraint = Constraint(StructuredOutputs.choice(["yes", "no"]), "response_format")
    plan = chat_plan(llm.tokenizer, [USER], tools=TOOLS, constraint=constraint)
    assert plan.structured_outputs is not None
    for text, expected in (("yes", True), ("maybe", False), (f"<tool_call>\n{GOOD}\n</tool_call>", True)):
        assert allows(llm, plan.structured_outputs, text) is expected


def test_a_response_format_alone(llm: LLM, shared: Path) -> None:
    constraint = Constraint(StructuredOutputs("json_object"), "response_format")
    plan = chat_plan(llm.tokenizer, [USER], constraint=constraint)
    assert plan.structured_outputs == constraint.outputs
    template = (shared / "tokenizers" / "chat_templates" / "Qwen-Qwen3-0.6B.jinja").read_text()
    thinking = chat_plan(llm.tokenizer, [USER], constraint=constraint, template=template)
    assert thinking.structured_outputs is not None
    assert allows(llm, thinking.structured_outputs, "<think>\nhm\n</think>\n\n{}")
    assert allows(llm, thinking.structured_outputs, "{}")


def test_schemas_that_cannot_be_enforced(llm: LLM) -> None:
    """Passed over where the model may call as it likes; refused where somebody asked for enforcement."""
    compiler = ConstraintCompiler(llm.tokenizer, llm.tokenizer.eos_ids)

    async def check(outputs: StructuredOutputs) -> None:
        compiler.compile(outputs)

    def plan(choice: str, **function: Any) -> ChatPlan:
        parameters = {"type": "object", "properties": {"a": {"type": "string", "pattern": "(?=x)y"}}}
        tool = {"type": "function", "function": {"name": "f", "parameters": parameters, **function}}
        return asyncio.run(chat_plan(llm.tokenizer, [USER], tools=[tool], tool_choice=choice).checked(check))

    relaxed = plan("auto")
    assert relaxed.structured_outputs is None
    text = '<tool_call>{"name": "f", "arguments": {"a": "b"}}</tool_call>'
    assert parsed(relaxed.parser(), text) == ("", "", [("f", '{"a": "b"}')])
    for choice, strict in (("required", False), ("auto", True)):
        with pytest.raises(RequestError, match="look-around") as caught:
            plan(choice, strict=strict)
        assert caught.value.param == "tools"
    assert plan("auto", parameters={"type": "object", "not": {"required": ["x"]}}).structured_outputs is not None
    with pytest.raises(RequestError, match='"not"'):
        plan("auto", strict=True, parameters={"type": "object", "not": {"required": ["x"]}})


def test_tools_too_long_to_be_enforced(llm: LLM) -> None:
    many = {f"property_{number}": {"enum": ["x" * 100] * 10} for number in range(400)}
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": many}}}
    template = "{{ messages[-1].content }}"
    assert chat_plan(llm.tokenizer, [USER], tools=[tool], template=template).structured_outputs is None
    with pytest.raises(RequestError, match="at most") as caught:
        chat_plan(llm.tokenizer, [USER], tools=[tool], tool_choice="required", template=template)
    assert caught.value.param == "tools"


def test_markers_that_are_control_tokens(shared: Path, tmp_path: Path) -> None:
    """They are enforced as tokens, and must not be skipped when the text is made."""
    folder = shared / "tokenizers"
    template = (folder / "chat_templates" / "mistralai-Mistral-Nemo-Instruct-2407.jinja").read_text()
    (tmp_path / "tokenizer.model").symlink_to(folder / "mistral" / "mistral_instruct_tokenizer_240323.model.v3")
    tokenizer = load_tokenizer(tmp_path)
    marker = tokenizer.control.id_of("[TOOL_CALLS]")
    assert marker is not None
    plan = chat_plan(tokenizer, [USER], tools=TOOLS, tool_choice="required", template=template)
    assert not plan.skip_special_tokens
    assert plan.structured_outputs is not None
    constraint = ConstraintCompiler(tokenizer, tokenizer.eos_ids).compile(plan.structured_outputs).begin()
    mask = np.unpackbits(np.frombuffer(constraint.allowed_tokens(), np.uint8), bitorder="little")
    assert np.flatnonzero(mask).tolist() == [marker]


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "messages[0]"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages[0].content"),
        ({"messages": [USER, {"role": "tool", "content": "x"}]}, "messages[1]"),
        ({"messages": [{"role": "user", "content": "x", "tool_calls": [CALL]}]}, "messages[0]"),
        (
            {"messages": [{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "["}}]}]},
            "messages[0].tool_calls",
        ),
        ({"tools": [{"type": "web_search"}]}, "tools[0]"),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools[0]"),
        ({"tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "array"}}}]}, "tools[0]"),
        ({"tools": TOOLS + TOOLS[:1]}, "tools"),
        ({"tools": TOOLS * 100}, "tools"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tools": TOOLS, "tool_choice": "sometimes"}, "tool_choice"),
        ({"tools": TOOLS, "tool_choice": {"type": "function", "function": {"name": "missing"}}}, "tool_choice"),
        ({"tools": TOOLS, "tool_choice": {"type": "allowed_tools"}}, "tool_choice"),
        ({"template_variables": {"messages": []}}, "messages"),
    ],
)
def test_wrong_requests_are_named(llm: LLM, changes: dict[str, Any], param: str) -> None:
    arguments = {"messages": [USER], **changes}
    with pytest.raises(RequestError) as caught:
        chat_plan(llm.tokenizer, **arguments)
    assert caught.value.param == param


def test_a_refusing_template_refuses(llm: LLM) -> None:
    with pytest.raises(TemplateError, match="never"):
        chat_plan(llm.tokenizer, [USER], tools=TOOLS, template="{{ raise_exception('never') }}")
