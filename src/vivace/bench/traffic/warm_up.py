"""Requests before those that count: kernels, caches of pages and connections get warm, the prefix cache does not."""

from __future__ import annotations

from random import Random

from vivace.bench.traffic.prompt_len import chat_len
from vivace.bench.traffic.prompt_text import PromptText
from vivace.bench.traffic.prompt_tree import PromptTree
from vivace.bench.traffic.request import Traffic, TrafficRequest

MOST_OUTPUT_LEN = 32
USERS = 4


def warm_up_traffic(traffic: Traffic, prompts: PromptText, num_requests: int) -> Traffic:
    """`num_requests` requests of the lengths and kinds of `traffic`, from a closed loop of a few users, with short
    answers. Their prompts share no block with those of `traffic`."""
    tree = PromptTree(prompts, f"{traffic.seed} warm-up")
    random = Random(f"{traffic.seed} warm-up")
    chat_tokens = chat_len(prompts.encoder, [{"role": "user", "content": ""}])
    requests: list[TrafficRequest] = []
    for index in range(num_requests):
        like = traffic.requests[index * len(traffic.requests) // num_requests]
        output_len = min(like.output_len, MOST_OUTPUT_LEN)
        if like.token_ids is not None:
            ids = tuple(random.sample(like.token_ids, len(like.token_ids)))
            requests.append(TrafficRequest(index, like.prompt_len, output_len, token_ids=ids))
        elif like.messages is not None:
            said = tree.content(max(1, like.prompt_len - chat_tokens))
            messages = ({"role": "user", "content": said},)
            prompt_len = chat_len(prompts.encoder, messages)
            requests.append(TrafficRequest(index, prompt_len, output_len, messages=messages))
        else:
            text = tree.prompt(like.prompt_len)
            requests.append(TrafficRequest(index, like.prompt_len, output_len, text=text))
    source: dict[str, object] = {"warm_up_of": traffic.name}
    return Traffic(f"{traffic.name} (warm-up)", tuple(requests), traffic.seed, USERS, source)
