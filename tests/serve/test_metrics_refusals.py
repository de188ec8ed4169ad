"""What the protocol refuses before or beside any route is in the HTTP metrics, once."""

from __future__ import annotations

import json
from collections import Counter

import httpx
from hostile_requests import JSON_TYPE, chunked_head, prompt_connection
from prometheus_client.parser import text_string_to_metric_families
from raw_http import RawConnection, exchange, request_bytes
from served_process import API_KEY, ServedProcess, eventually


def exchanges(server: ServedProcess) -> Counter[tuple[str, str, str]]:
    """Of all routes but the scrape's own, by route, method and status."""
    families = {}

    def is_alone() -> bool:
        """Whether nothing is under way but this scrape: what earlier tests left has been counted."""
        headers = {"Authorization": f"Bearer {API_KEY}"}
        answer = httpx.get(f"http://127.0.0.1:{server.port}/metrics", headers=headers, timeout=60.0)
        families.update({family.name: family for family in text_string_to_metric_families(answer.text)})
        return families["vivace:http_requests_open"].samples[0].value == 1

    assert eventually(is_alone)
    counts = {
        tuple(sample.labels[name] for name in ("route", "method", "status")): int(sample.value)
        for sample in families["vivace:http_requests"].samples
        if sample.labels["route"] != "/metrics"
    }
    return Counter(counts)


def test_refusals_are_counted_once(strict: ServedProcess) -> None:
    before = exchanges(strict)
    with RawConnection(strict.port) as connection:
        assert connection.send(b"GARBAGE\r\n\r\n").answer().status == 400
    assert exchange(strict.port, request_bytes(headers={f"X-{n}": "1" for n in range(200)})).status == 431
    too_long = {**JSON_TYPE, "Content-Length": str(10**15)}
    with RawConnection(strict.port) as connection:
        assert connection.send(request_bytes("POST", "/v1/completions", too_long)).answer().status == 413
    with RawConnection(strict.port) as connection:  # an ordinary request afterwards
        body = json.dumps({"prompt": "Once", "max_tokens": 1}).encode()
        head = request_bytes("POST", "/v1/completions", JSON_TYPE, body, key=API_KEY)
        assert connection.send(head).answer().status == 200
    found = exchanges(strict) - before
    assert found == Counter(
        {
            ("unmatched", "other", "400"): 1,
            ("unmatched", "other", "431"): 1,
            ("unmatched", "POST", "413"): 1,
            ("/v1/completions", "POST", "200"): 1,
        }
    )


def test_who_is_too_slow_is_counted_once(hasty: ServedProcess) -> None:
    before = exchanges(hasty)
    with prompt_connection(hasty.port, b"GET / HTTP/1.1\r\nHost: x\r\n") as connection:  # a head that does not end
        assert connection.answer().status == 408
    with prompt_connection(hasty.port, chunked_head() + b"5\r\n{") as connection:  # a body: its route waits for it
        assert connection.answer().status == 408
    found = exchanges(hasty) - before
    assert found == Counter({("unmatched", "other", "408"): 1, ("/v1/completions", "POST", "408"): 1})
