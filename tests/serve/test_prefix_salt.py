"""One key cannot see another's prompts in the prefix cache, unless the operator lets all share it."""

from __future__ import annotations

import json

import pytest
from hostile_requests import JSON_TYPE
from raw_http import exchange, request_bytes
from served_process import SMALL, ServedProcess, served


@pytest.mark.parametrize("is_shared", [False, True])
def test_prefixes_of_another_key(is_shared: bool) -> None:
    shared = ("--shared-prefix-cache",) if is_shared else ()
    with served(*SMALL, *shared, "--api-key", "first", "--api-key", "second", api_key=None) as process:
        process.wait_ready()
        assert _num_cached(process, "first") == 0
        assert _num_cached(process, "first") > 0
        assert (_num_cached(process, "second") > 0) == is_shared
        assert _num_cached(process, "second") > 0


def _num_cached(process: ServedProcess, key: str) -> int:
    """Tokens of a prompt of some blocks that were found in the cache."""
    body = json.dumps({"prompt": list(range(100, 200)), "max_tokens": 1}).encode()
    answer = exchange(process.port, request_bytes("POST", "/v1/completions", JSON_TYPE, body, key=key))
    assert answer.status == 200
    return int(json.loads(answer.body)["usage"]["prompt_tokens_details"]["cached_tokens"])
