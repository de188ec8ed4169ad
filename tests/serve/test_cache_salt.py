"""`cache_salt`: mixed with the salt of the key, so that it never joins two keys."""

from __future__ import annotations

import openai
from served_process import SMALL, ServedProcess, served

PROMPT = "It was the best of times, it was the worst of times. " * 8


def num_cached(process: ServedProcess, key: str | None, **extra: str) -> int:
    url = f"{process.base_url}/v1"
    with openai.OpenAI(base_url=url, api_key=key, max_retries=0) as client:
        usage = client.completions.create(
            model="vivace-embedded", prompt=PROMPT, max_tokens=1, extra_body=extra
        ).usage
    assert usage is not None
    assert usage.prompt_tokens_details is not None
    return usage.prompt_tokens_details.cached_tokens or 0


def test_a_salt_parts_one_keys_own_prompts() -> None:
    with served(*SMALL, "--api-key", "second-key") as process:
        process.wait_ready()
        assert num_cached(process, process.api_key) == 0
        assert num_cached(process, process.api_key, cache_salt="x") == 0
        assert num_cached(process, process.api_key, cache_salt="x") > 0
        assert num_cached(process, "second-key", cache_salt="x") == 0  # the same salt, another key
        assert num_cached(process, process.api_key) > 0
