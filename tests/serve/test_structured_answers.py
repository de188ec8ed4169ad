"""JSON schemas and tools with the official client, LangChain and LiteLLM: whole and streamed."""

from __future__ import annotations

import importlib
import json
import os
import re
from collections.abc import Iterator
from typing import Any, Literal

import httpx
import openai
import pytest
from langchain_openai import ChatOpenAI
from pydantic import BaseModel
from served_process import ServedProcess

MODEL = "vivace-embedded"
ASK = [{"role": "user", "content": "What is the weather?"}]
MAX_RETRIES = 20  # a machine too busy to compile a constraint within 0.9 s says so: 429, and when to come again
OPTIONS = {"model": MODEL, "messages": ASK, "seed": 5, "max_tokens": 200}
TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather of a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"enum": ["Paris", "Oslo"]}, "celsius": {"type": "boolean"}},
            "required": ["city", "celsius"],
            "additionalProperties": False,
        },
        "strict": True,
    },
}


class Weather(BaseModel):
    sky: Literal["clear", "cloudy"]
    is_warm: bool


@pytest.fixture
def http() -> Iterator[httpx.Client]:
    """The clients try again after a server error as well: none may have come, however often they tried."""
    statuses: list[int] = []
    with httpx.Client(event_hooks={"response": [lambda answer: statuses.append(answer.status_code)]}) as http:
        yield http
    assert statuses
    assert [status for status in statuses if status >= 500] == []


@pytest.fixture
def client(server: ServedProcess, http: httpx.Client) -> openai.OpenAI:
    url = f"{server.base_url}/v1"
    return openai.OpenAI(base_url=url, api_key=server.api_key, max_retries=MAX_RETRIES, http_client=http)


@pytest.fixture
def langchain(server: ServedProcess, http: httpx.Client) -> ChatOpenAI:
    return ChatOpenAI(
        model=MODEL,
        base_url=f"{server.base_url}/v1",
        api_key=server.api_key,
        seed=5,
        max_tokens=200,
        max_retries=MAX_RETRIES,
        http_client=http,
    )


def check_call(name: str, arguments: str) -> None:
    assert name == "get_weather"
    values = json.loads(arguments)
    assert set(values) == {"city", "celsius"}
    assert values["city"] in ("Paris", "Oslo")
    assert isinstance(values["celsius"], bool)


def test_schema_of_a_pydantic_model(client: openai.OpenAI) -> None:
    parsed = client.chat.completions.parse(response_format=Weather, **OPTIONS)
    assert isinstance(parsed.choices[0].message.parsed, Weather)
    with client.chat.completions.stream(response_format=Weather, **OPTIONS) as stream:
        assert isinstance(stream.get_final_completion().choices[0].message.parsed, Weather)


def test_schema_of_the_responses_api(client: openai.OpenAI) -> None:
    fields = {"model": MODEL, "input": "What is the weather?", "max_output_tokens": 200}
    assert isinstance(client.responses.parse(text_format=Weather, **fields).output_parsed, Weather)
    with client.responses.stream(text_format=Weather, **fields) as stream:
        assert isinstance(stream.get_final_response().output_parsed, Weather)


def test_json_object_regex_and_choice(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(response_format={"type": "json_object"}, stop=["}"], **OPTIONS)
    assert (answer.choices[0].message.content or "").lstrip().startswith("{")
    for constraint, pattern in (({"regex": "[ab]{3}c"}, "[ab]{3}c"), ({"choice": ["yes", "no"]}, "yes|no")):
        extra = {"structured_outputs": constraint}
        content = client.chat.completions.create(extra_body=extra, **OPTIONS).choices[0].message.content
        assert re.fullmatch(pattern, content or "")
        text = client.completions.create(model=MODEL, prompt="The", max_tokens=50, extra_body=extra).choices[0].text
        assert re.fullmatch(pattern, text)


@pytest.mark.parametrize(
    ("name", "value", "pattern"),
    [
        ("guided_regex", "[ab]{3}c", "[ab]{3}c"),
        ("guided_choice", ["yes", "no"], "yes|no"),
        ("guided_grammar", 'start: "x" /[0-9]/ "y"', "x[0-9]y"),
        ("guided_json", {"type": "boolean"}, r"\s*(true|false)\s*"),
        ("guided_json", '{"const": 7}', r"\s*7\s*"),
    ],
)
def test_earlier_names_of_vllm(client: openai.OpenAI, name: str, value: Any, pattern: str) -> None:
    extra = {name: value}
    content = client.chat.completions.create(extra_body=extra, **OPTIONS).choices[0].message.content
    assert re.fullmatch(pattern, content or "")
    text = client.completions.create(model=MODEL, prompt="The", max_tokens=50, extra_body=extra).choices[0].text
    assert re.fullmatch(pattern, text)
    with pytest.raises(openai.BadRequestError, match="exclude each other"):
        client.chat.completions.create(extra_body={**extra, "structured_outputs": {"regex": "a"}}, **OPTIONS)
    with pytest.raises(openai.BadRequestError, match="exclude each other"):
        client.completions.create(
            model=MODEL, prompt="x", extra_body={**extra, "response_format": {"type": "json_object"}}
        )


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "get_weather"}}])
def test_tool_calls(client: openai.OpenAI, choice: Any) -> None:
    fields = {"tools": [TOOL], "tool_choice": choice, "parallel_tool_calls": False, **OPTIONS}
    whole = client.chat.completions.create(**fields).choices[0]
    assert whole.finish_reason == "tool_calls"
    assert whole.message.tool_calls is not None
    (call,) = whole.message.tool_calls
    check_call(call.function.name, call.function.arguments)
    with client.chat.completions.stream(**fields) as stream:
        streamed = stream.get_final_completion().choices[0]
    assert streamed.finish_reason == "tool_calls"
    assert streamed.message.tool_calls is not None
    assert streamed.message.tool_calls[0].function.arguments == call.function.arguments
    history = [*ASK, whole.message, {"role": "tool", "tool_call_id": call.id, "content": "Rain."}]
    follow_up = client.chat.completions.create(model=MODEL, messages=history, tools=[TOOL], max_tokens=5)
    assert follow_up.usage.prompt_tokens > 0


def test_tool_calls_of_the_responses_api(client: openai.OpenAI) -> None:
    tool = {"type": "function", **TOOL["function"]}
    fields = {"model": MODEL, "tools": [tool], "tool_choice": "required", "parallel_tool_calls": False}
    fields |= {"input": "What is the weather?", "max_output_tokens": 200}
    whole = client.responses.create(**fields)
    assert whole.status == "completed"
    (call,) = whole.output
    check_call(call.name, call.arguments)
    kinds = []
    for event in client.responses.create(stream=True, **fields):
        kinds.append(event.type)
        if event.type == "response.function_call_arguments.done":
            check_call(event.name, event.arguments)
    assert kinds[-3:] == [
        "response.function_call_arguments.done",
        "response.output_item.done",
        "response.completed",
    ]
    result = {"type": "function_call_output", "call_id": call.call_id, "output": "Rain."}
    history = [{"role": "user", "content": "What is the weather?"}, *whole.output, result]
    assert client.responses.create(model=MODEL, input=history, tools=[tool], max_output_tokens=5).output


def test_langchain(langchain: ChatOpenAI) -> None:
    assert isinstance(langchain.with_structured_output(Weather).invoke("What is the weather?"), Weather)
    bound = langchain.bind_tools([TOOL], tool_choice="required", parallel_tool_calls=False)
    (call,) = bound.invoke("What is the weather?").tool_calls
    check_call(call["name"], json.dumps(call["args"]))
    total = None
    for chunk in bound.stream("What is the weather?"):
        total = chunk if total is None else total + chunk
    assert total is not None
    assert total.tool_calls[0]["args"] == call["args"]


@pytest.fixture
def litellm_fields(client: openai.OpenAI) -> dict[str, Any]:
    os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
    return {**OPTIONS, "model": f"openai/{MODEL}", "client": client}


@pytest.mark.filterwarnings("ignore::UserWarning")  # its own types, as pydantic reads them
def test_litellm_schema(litellm_fields: dict[str, Any]) -> None:
    litellm = importlib.import_module("litellm")
    content = litellm.completion(response_format=Weather, **litellm_fields).choices[0].message.content
    assert isinstance(Weather.model_validate_json(content), Weather)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_litellm_tools(litellm_fields: dict[str, Any]) -> None:
    litellm = importlib.import_module("litellm")
    called = litellm.completion(tools=[TOOL], tool_choice="required", parallel_tool_calls=False, **litellm_fields)
    (call,) = called.choices[0].message.tool_calls
    check_call(call.function.name, call.function.arguments)


def test_wrong_schemas_are_refused_by_name(client: openai.OpenAI) -> None:
    wrong = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "wizard"}}}
    with pytest.raises(openai.BadRequestError) as failure:
        client.chat.completions.create(response_format=wrong, **OPTIONS)
    assert failure.value.param == "response_format"
    with pytest.raises(openai.BadRequestError) as failure:
        client.chat.completions.create(extra_body={"structured_outputs": {"regex": "("}}, **OPTIONS)
    assert failure.value.param == "structured_outputs"
    with pytest.raises(openai.BadRequestError) as failure:
        client.completions.create(model=MODEL, prompt="x", extra_body={"structured_outputs": {"regex": "("}})
    assert failure.value.param == "structured_outputs"
    with pytest.raises(openai.BadRequestError) as failure:
        client.completions.create(model=MODEL, prompt="x", extra_body={"guided_regex": "("})
    assert failure.value.param == "guided_regex"
    with pytest.raises(openai.BadRequestError) as failure:
        client.chat.completions.create(tools=[TOOL], tool_choice="sometimes", **OPTIONS)
    assert failure.value.param == "tool_choice"
