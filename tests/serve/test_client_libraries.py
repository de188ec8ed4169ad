"""LangChain's ChatOpenAI and LiteLLM, unchanged."""

from __future__ import annotations

import importlib
import os
from types import ModuleType

import pytest
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage
from langchain_openai import ChatOpenAI, OpenAI
from served_process import ServedProcess

from vivace.core.sampling import SamplingParams
from vivace.engine.llm import LLM

MODEL = "vivace-embedded"
MESSAGES = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}]
NUM_TOKENS = 10


@pytest.fixture(scope="module")
def answer() -> str:
    llm = LLM(num_threads=1, num_kv_blocks=128)
    return llm.chat(MESSAGES, SamplingParams(temperature=0.0, max_tokens=NUM_TOKENS))[0].outputs[0].text


@pytest.fixture(scope="module")
def litellm() -> ModuleType:
    os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # its import fetches prices from the network otherwise
    return importlib.import_module("litellm")


@pytest.fixture
def chat_model(server: ServedProcess) -> ChatOpenAI:
    return ChatOpenAI(
        model=MODEL,
        base_url=f"{server.base_url}/v1",
        api_key=server.api_key,
        temperature=0,
        max_tokens=NUM_TOKENS,
        max_retries=0,
    )


def test_langchain_chat(chat_model: ChatOpenAI, answer: str) -> None:
    messages = [SystemMessage("Be brief."), HumanMessage("Hello")]
    reply = chat_model.invoke(messages)
    assert isinstance(reply, AIMessage)
    assert reply.content == answer
    assert reply.usage_metadata is not None
    assert reply.usage_metadata["output_tokens"] <= NUM_TOKENS
    chunks = list(chat_model.stream(messages))
    assert "".join(str(chunk.content) for chunk in chunks) == answer
    assert chat_model.batch([messages, messages])[1].content == answer


def test_langchain_responses_api(server: ServedProcess, answer: str) -> None:
    model = ChatOpenAI(
        model=MODEL,
        base_url=f"{server.base_url}/v1",
        api_key=server.api_key,
        temperature=0,
        max_tokens=NUM_TOKENS,
        max_retries=0,
        use_responses_api=True,
    )
    reply = model.invoke([SystemMessage("Be brief."), HumanMessage("Hello")])
    assert reply.text == answer
    assert (
        "".join(chunk.text for chunk in model.stream([SystemMessage("Be brief."), HumanMessage("Hello")])) == answer
    )


def test_langchain_completion(server: ServedProcess) -> None:
    model = OpenAI(
        model=MODEL,
        base_url=f"{server.base_url}/v1",
        api_key=server.api_key,
        temperature=0,
        max_tokens=5,
        max_retries=0,
    )
    assert model.invoke("The sea") == "".join(model.stream("The sea")) != ""


@pytest.mark.filterwarnings("ignore::UserWarning")  # its own types, as pydantic reads them
def test_litellm_chat_and_text(server: ServedProcess, litellm: ModuleType, answer: str) -> None:
    options = {"api_base": f"{server.base_url}/v1", "api_key": server.api_key, "temperature": 0, "num_retries": 0}
    fields = {"model": f"openai/{MODEL}", "messages": MESSAGES, "max_tokens": NUM_TOKENS, **options}
    assert litellm.completion(**fields).choices[0].message.content == answer
    stream = litellm.completion(stream=True, stream_options={"include_usage": True}, **fields)
    chunks = list(stream)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == answer
    text_model = f"text-completion-openai/{MODEL}"
    text = litellm.text_completion(model=text_model, prompt="The sea", max_tokens=5, **options)
    assert text.choices[0].text
    with pytest.raises(litellm.BadRequestError, match="temperature"):
        litellm.completion(**{**fields, "temperature": -1})
