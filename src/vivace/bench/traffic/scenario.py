"""Traffic by a scenario's name."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from random import Random

from vivace.bench.traffic.agents import agent_loops
from vivace.bench.traffic.arrivals import Ramp
from vivace.bench.traffic.cancellation import with_cancellations
from vivace.bench.traffic.chats import short_chats, system_prompts
from vivace.bench.traffic.conversation_file import file_conversations
from vivace.bench.traffic.dialogue import Dialogue, dialogue_requests
from vivace.bench.traffic.documents import document_questions
from vivace.bench.traffic.load_shape import LoadShape
from vivace.bench.traffic.prompt_text import PromptText, TextEncoder
from vivace.bench.traffic.prompt_tree import PromptTree
from vivace.bench.traffic.request import Traffic, TrafficRequest
from vivace.bench.traffic.setting import Setting
from vivace.bench.traffic.single_prompts import long_answers, long_prompts, uniform_prompts
from vivace.core.errors import ConfigError
from vivace.core.nearest_name import nearest_name

DEFAULT_SCENARIO = "chat"
CONVERSATIONS = "conversations"
SCENARIOS = {
    "chat": "short chats of one to six turns under one system prompt",
    CONVERSATIONS: "chats of a ShareGPT-style JSONL file",
    "system-prompt": "one question under one of four long shared system prompts",
    "rag": "questions about three of two hundred documents, some of them popular",
    "long-prompt": "prompts of half the context and more, answers of a sentence",
    "long-answer": "prompts of a sentence, answers of a quarter to half of the context",
    "agent": "agents that call tools: the context grows by each result, which takes its time",
    "uniform": "prompts and answers of uniform length that share nothing, for comparison",
}
_DIALOGUES: dict[str, Callable[[Setting], Iterator[Dialogue]]] = {
    "chat": short_chats,
    "system-prompt": system_prompts,
    "rag": document_questions,
    "agent": agent_loops,
}
_SINGLE: dict[str, Callable[[Setting, int], list[TrafficRequest]]] = {
    "long-prompt": long_prompts,
    "long-answer": long_answers,
    "uniform": uniform_prompts,
}
SMALLEST_CONTEXT = 128  # tokens: below, no scenario keeps its shape


def make_traffic(
    name: str = DEFAULT_SCENARIO,
    *,
    tokenizer: TextEncoder,
    num_requests: int = 100,
    rate: float | None = None,
    burstiness: float = 1.0,
    ramp: Ramp | None = None,
    concurrency: int | None = None,
    seed: int = 0,
    max_model_len: int = 2048,
    text: PromptText | str | Path | None = None,
    conversations: str | Path | None = None,
    think_s: float | None = None,
    prompt_len: int | None = None,
    output_len: int | None = None,
    cancel_share: float = 0.0,
    cancel_after_s: float = 2.0,
) -> Traffic:
    """Traffic of the scenario `name` (one of `SCENARIOS`), the same to the byte for the same arguments.

    `rate` (requests a second, with vLLM's `burstiness`, and a `ramp` that leads to it) makes an open loop,
    `concurrency` (users) a closed one; with neither, all that can be sent is sent at once. `text`: a file that
    prompts are made of, None for the package's sample. `conversations`: the file of the scenario of that name.
    `think_s`: mean pause between turns; `prompt_len`, `output_len`: fixed lengths, for scenarios of single prompts.

    Raises `ConfigError` for a wrong value and for files that cannot be read.
    """
    if name not in SCENARIOS:
        raise ConfigError(f"unknown scenario {name!r}{nearest_name(name, list(SCENARIOS))}")
    _check(name, num_requests, max_model_len, conversations, prompt_len, output_len, think_s)
    load = LoadShape(rate, burstiness, concurrency, ramp)
    words = text if isinstance(text, PromptText) else _prompt_text(tokenizer, text)
    random = Random(f"{seed} {name}")
    setting = Setting(PromptTree(words, f"{seed} {name}"), random, max_model_len, think_s, prompt_len, output_len)
    if name in _SINGLE:
        requests = _single(name, setting, num_requests, load, seed)
    else:
        dialogues = (
            file_conversations(conversations, setting, tokenizer)
            if conversations is not None
            else _DIALOGUES[name](setting)
        )
        requests = dialogue_requests(
            dialogues,
            num_requests=num_requests,
            load=load,
            encoder=tokenizer,
            max_model_len=max_model_len,
            seed=seed,
        )
    source: dict[str, object] = {"scenario": name, "num_requests": len(requests), **load.record()}
    source["max_model_len"] = max_model_len
    source |= {"conversations": str(conversations)} if conversations is not None else {"text": words.source}
    source |= {} if think_s is None else {"think_s": think_s}
    traffic = Traffic(name, requests, seed, concurrency, source)
    return with_cancellations(traffic, cancel_share, cancel_after_s)


def _check(
    name: str,
    num_requests: int,
    max_model_len: int,
    conversations: str | Path | None,
    prompt_len: int | None,
    output_len: int | None,
    think_s: float | None,
) -> None:
    if num_requests < 1:
        raise ConfigError(f"traffic has 1 request or more, not {num_requests}")
    if max_model_len < SMALLEST_CONTEXT:
        raise ConfigError(f"scenarios need a context of {SMALLEST_CONTEXT} tokens or more, not {max_model_len}")
    if (conversations is not None) != (name == CONVERSATIONS):
        raise ConfigError(f"the scenario {CONVERSATIONS!r} and a file of conversations belong together")
    if name not in _SINGLE and (prompt_len is not None or output_len is not None):
        raise ConfigError(f"fixed lengths are for the scenarios {', '.join(_SINGLE)}, not for {name!r}")
    if any(length is not None and length < 1 for length in (prompt_len, output_len)):
        raise ConfigError("prompts and answers have 1 token or more")
    if think_s is not None and not 0 <= think_s < float("inf"):
        raise ConfigError(f"a pause is 0 seconds or longer, not {think_s}")


def _prompt_text(encoder: TextEncoder, path: str | Path | None) -> PromptText:
    return PromptText(encoder) if path is None else PromptText.from_file(encoder, path)


def _single(name: str, setting: Setting, num_requests: int, load: LoadShape, seed: int) -> tuple[TrafficRequest, ...]:
    requests = _SINGLE[name](setting, num_requests)
    moments = load.arrivals([1] * num_requests, seed)
    return tuple(replace(one, arrival_s=moment) for one, moment in zip(requests, moments, strict=True))
