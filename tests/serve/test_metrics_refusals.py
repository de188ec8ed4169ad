"""What the protocol refuses before or beside any route is in the HTTP metrics, once."""

from __future__ import annotations

import json
from collections import Counter

import httpx
from hostile_requests import JSON_TYPE, chunked_head
from prometheus_client.parser import text_string_to_metric_families
from raw_http import RawConnection, exchange, request_bytes
from served_process import API_KEY, ServedProcess


def exchanges(server: ServedProcess) -> Counter[tuple[str, str, str]]:
    """Of all routes but the scrape's own, by route, method and status."""
    answer = httpx.get(f"http://127.0.0.1:{server.port}/metrics", headers={"Authorization": f"Bearer {API_KEY}"})
    families = {family.name: family for family in text_string_to_metric_families(answer.text)}
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
    with RawConnection(strict.port) as connection:  # a head that does not end
        assert connection.send(b"GET / HTTP/1.1\r\nHost: x\r\n").answer().status == 408
    with RawConnection(strict.port) as connection:  # a body that does not end: its route is waiting for it
        assert connection.send(chunked_head() + b"5\r\n{").answer().status == 408
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
            ("unmatched", "other", "408"): 1,
            ("/v1/completions", "POST", "408"): 1,
            ("/v1/completions", "POST", "200"): 1,
        }
    )
