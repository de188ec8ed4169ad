"""The dashboard's files and numbers over HTTP: who may read what, how long it may be kept, and nothing else."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from importlib.resources import files
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from raw_http import exchange, request_bytes
from served_process import ServedProcess, eventually

from vivace.serve.dashboard.assets import ASSET_PATHS

STATIC = files("vivace.serve.dashboard") / "static"


@pytest.fixture(scope="module")
def client(server: ServedProcess) -> Iterator[httpx.Client]:
    headers = {"Authorization": f"Bearer {server.api_key}"}
    with httpx.Client(base_url=server.base_url, headers=headers, timeout=60.0) as client:
        yield client


@pytest.fixture(scope="module")
def stranger(server: ServedProcess) -> Iterator[httpx.Client]:
    """Without a key."""
    with httpx.Client(base_url=server.base_url, timeout=60.0) as client:
        yield client


@pytest.mark.parametrize("path", sorted(ASSET_PATHS))
def test_files_are_open_and_carry_their_headers(stranger: httpx.Client, path: str) -> None:
    answer = stranger.get(path)
    assert answer.status_code == 200
    name = path.removeprefix("/dashboard/") if path != "/" else "index.html"
    assert answer.content == (STATIC / name).read_bytes()
    policy = answer.headers["content-security-policy"]
    assert policy.startswith("default-src 'self';")
    assert "unsafe" not in policy
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["cache-control"] == "no-cache"
    again = stranger.get(path, headers={"If-None-Match": answer.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert stranger.get(path, headers={"If-None-Match": '"other"'}).status_code == 200
    assert stranger.head(path).status_code == 200


def test_every_file_has_its_media_type(stranger: httpx.Client) -> None:
    types = {path.rpartition(".")[2]: stranger.get(path).headers["content-type"] for path in ASSET_PATHS}
    assert types == {
        "/": "text/html; charset=utf-8",
        "js": "text/javascript; charset=utf-8",
        "css": "text/css; charset=utf-8",
        "svg": "image/svg+xml",
    }


def test_files_name_no_other_server_and_hold_no_inline_code() -> None:
    for file in STATIC.iterdir():
        text = file.read_text().replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"https?://|//[a-z]+\.", text), file.name
    page = (STATIC / "index.html").read_text()
    assert not re.search(r"<script(?![^>]*\bsrc=)|<style|\sstyle=|\son[a-z]+=|javascript:", page)
    assert {*re.findall(r'(?:href|src)="(/[^"]*)"', page)} <= ASSET_PATHS
    imported = {name for file in STATIC.iterdir() for name in re.findall(r'from "\./([^"]+)"', file.read_text())}
    assert {f"/dashboard/{name}" for name in imported} <= ASSET_PATHS


PLACES = ("/dashboard/none.js", "/dashboard/index.html", "/dashboard/", "/dashboard/../serve/config.py")
PLACES += (
    "/dashboard/..%2fassets.py",
    "/dashboard/%2e%2e/feed.py",
    "/dashboard/....//feed.py",
    "/dashboard/static/main.js",
)
PLACES += ("/dashboard/main.js/", "/dashboard/main.js%00", "//dashboard/main.js", "/dashboard/%5c..%5cfeed.py")


@pytest.mark.parametrize("path", PLACES)
def test_nothing_else_is_there(server: ServedProcess, path: str) -> None:
    headers = {"Authorization": f"Bearer {server.api_key}"}
    assert exchange(server.port, request_bytes("GET", path, headers)).status in (400, 404)
    assert exchange(server.port, request_bytes("GET", path)).status in (400, 401)


def test_methods_that_change_something_are_refused(client: httpx.Client) -> None:
    for path in ("/", "/dashboard/main.js", "/dashboard/state"):
        assert client.post(path).status_code == 405


def test_numbers_need_a_key_and_are_not_kept(stranger: httpx.Client, client: httpx.Client) -> None:
    assert stranger.get("/dashboard/state").status_code == 401
    assert stranger.get("/dashboard/state", headers={"Authorization": "Bearer wrong"}).status_code == 401
    answer = client.get("/dashboard/state")
    assert answer.status_code == 200
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["content-type"] == "application/json"


def test_numbers_are_those_of_the_metrics(client: httpx.Client) -> None:
    body = {"prompt": "Once upon a time there was", "max_tokens": 12, "ignore_eos": True}
    assert client.post("/v1/completions", json=body).status_code == 200
    state: dict[str, Any] = {}
    pairs: dict[str, tuple[float, float]] = {}

    def agree() -> bool:  # other tests' requests may end between the two answers
        state.update(client.get("/dashboard/state").json())
        families = text_string_to_metric_families(client.get("/metrics").text)
        samples = {one.name: one.value for family in families for one in family.samples if len(one.labels) == 1}
        pairs.update({name: (samples[f"vivace:{name}"], figure) for name, figure in figures(state).items()})
        return all(first == second for first, second in pairs.values())

    assert eventually(agree), pairs
    engine, blocks = state["engine"], state["blocks"]
    assert min(engine["num_prefill_rows"], engine["num_decode_rows"]) > 0
    assert blocks["num_free"] + blocks["num_cached"] + blocks["num_used"] == blocks["num_blocks"] == 2048


def figures(state: dict[str, Any]) -> dict[str, float]:
    """By the names that the metrics have for them."""
    engine = state["engine"]
    return {
        "generation_tokens_total": state["num_generation_tokens"],
        "prompt_tokens_total": state["num_prompt_tokens"],
        "engine_steps_total": engine["num_steps"],
        "engine_computed_tokens_total": sum(engine[f"num_{kind}_rows"] for kind in ("prefill", "decode", "guess")),
        "prefix_cache_hits_total": state["blocks"]["num_prefix_hits"],
        "kv_cache_num_cached_blocks": state["blocks"]["num_cached"],
        "time_to_first_token_seconds_count": sum(state["latencies"]["first_token"]["counts"]),
    }


def test_the_map_comes_with_a_later_answer(client: httpx.Client) -> None:
    maps: list[dict[str, str]] = []

    def came() -> bool:
        found = client.get("/dashboard/state").json()["blocks"]["map"]
        maps.extend([found] if found else [])
        return bool(maps)

    assert eventually(came)
    shares = base64.b64decode(maps[-1]["shares"])
    assert len(shares) == 4 * 1024  # two blocks a cell
    assert all(sum(shares[first : first + 4]) in (254, 255) for first in range(0, len(shares), 4))
