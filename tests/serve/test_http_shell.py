"""The layers around every route, without a socket: errors, ids, keys, the log, departures."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import pytest
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from vivace.core.errors import (
    ConfigError,
    ContextLengthError,
    DeadlineError,
    EngineError,
    OverloadedError,
    RequestError,
    TemplateError,
    UnavailableError,
)
from vivace.serve.app import build_app
from vivace.serve.authentication import ANONYMOUS, ApiKey, KeyRing
from vivace.serve.body_room import BodyRoom
from vivace.serve.config import ServeConfig
from vivace.serve.disconnect import run_until_disconnected
from vivace.serve.errors import HttpError, error_body, error_response
from vivace.serve.lifecycle import Lifecycle
from vivace.serve.routes import health

Endpoint = Callable[[Request], Awaitable[Response]]


def _ask(endpoint: Endpoint, *, state: str = "ready", keys: KeyRing | None = None, **headers: str) -> httpx.Response:
    lifecycle = Lifecycle()
    lifecycle.warmed_up(lambda: state)
    app = build_app(ServeConfig(), lifecycle, keys or KeyRing(()), [*health.ROUTES, Route("/x", endpoint)])

    async def exchange() -> httpx.Response:
        transport = httpx.ASGITransport(app, raise_app_exceptions=True)  # nothing may reach uvicorn
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await client.get("/x", headers={name.replace("_", "-"): value for name, value in headers.items()})

    return asyncio.run(exchange())


def _raising(error: Exception) -> Endpoint:
    async def endpoint(_: Request) -> Response:
        raise error

    return endpoint


ANSWERS = [
    (RequestError("bad", param="n"), 400, "invalid_request_error", "n", "invalid_value"),
    (ContextLengthError("long", param="prompt"), 400, "invalid_request_error", "prompt", "context_length_exceeded"),
    (TemplateError("bad"), 400, "invalid_request_error", "messages", "template_error"),
    (ConfigError("not here"), 400, "invalid_request_error", None, "unsupported"),
    (OverloadedError("full", retry_after_s=2.1), 429, "rate_limit_error", None, "overloaded"),
    (UnavailableError("loading", retry_after_s=0.0), 503, "unavailable_error", None, "unavailable"),
    (DeadlineError("late"), 504, "timeout_error", None, "deadline_exceeded"),
    (
        HttpError(404, "no model", code="model_not_found", param="model"),
        404,
        "not_found_error",
        "model",
        "model_not_found",
    ),
    (HTTPException(418, "teapot"), 418, "invalid_request_error", None, "i'm_a_teapot"),
    (EngineError("secret"), 500, "server_error", None, "internal_error"),
    (RuntimeError("secret"), 500, "server_error", None, "internal_error"),
    (RecursionError("secret"), 500, "server_error", None, "internal_error"),
]


@pytest.mark.parametrize(("error", "status", "kind", "param", "code"), ANSWERS, ids=lambda value: str(value)[:30])
def test_every_error_has_openais_shape(
    error: Exception, status: int, kind: str, param: str | None, code: str, caplog: pytest.LogCaptureFixture
) -> None:
    answer = _ask(_raising(error))
    assert answer.status_code == status
    body = answer.json()["error"]
    assert (body["type"], body["param"], body["code"]) == (kind, param, code)
    assert answer.headers["x-request-id"].startswith("req-")
    assert ("secret" in caplog.text) == (status == 500)
    assert "secret" not in answer.text
    assert json.loads(json.dumps(error_body(error))) == answer.json()


def test_when_to_come_again() -> None:
    headers = {error.__class__: _ask(_raising(error)).headers for error, *_ in ANSWERS[4:6]}
    assert headers[OverloadedError]["retry-after"] == "3"
    assert headers[UnavailableError]["retry-after"] == "1"


def test_messages_are_cut_and_can_be_encoded() -> None:
    body = error_response(RequestError("\ud800" + "x" * 10_000_000), "req-1").body
    message = json.loads(bytes(body))["error"]["message"]
    assert message.startswith("\\ud800xxx")
    assert len(message) < 1_100


def test_an_error_behind_the_first_byte_ends_the_answer(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(Response):
        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:  # noqa: ARG002
            await send({"type": "http.response.start", "status": 200, "headers": []})
            raise RuntimeError("in the middle")

    async def endpoint(_: Request) -> Response:
        return Broken()

    with pytest.raises(AssertionError):  # httpx's transport: the answer was never complete
        _ask(endpoint)
    assert "in the middle" in caplog.text


def test_routes_see_who_asks_and_fill_the_log(caplog: pytest.LogCaptureFixture) -> None:
    seen: list[Any] = []

    async def endpoint(request: Request) -> Response:
        seen.append((request.state.request_id, request.state.api_key, request.state.arrival))
        request.state.log["num_generated_tokens"] = 7
        return Response(b"")

    with caplog.at_level(logging.INFO, "vivace.access"):
        answer = _ask(endpoint, keys=KeyRing(["a", "b"]), Authorization="bearer  b", X_Request_Id="mine")
    request_id, key, arrival = seen[0]
    assert answer.headers["x-request-id"] == request_id != "mine"
    assert answer.headers["x-client-request-id"] == "mine"
    assert (key.name, len(key.salt), arrival > 0) == ("key-2", 16, True)
    fields = caplog.records[-1].fields  # type: ignore[attr-defined]
    assert (fields["status"], fields["key"], fields["num_generated_tokens"]) == (200, "key-2", 7)
    assert fields["client_request_id"] == "mine"


@pytest.mark.parametrize(("state", "status"), [("ready", 200), ("restarting", 200), ("stopped", 503)])
def test_requests_wait_for_a_restart_but_not_for_ever(state: str, status: int) -> None:
    async def endpoint(_: Request) -> Response:
        return Response(b"")

    assert _ask(endpoint, state=state).status_code == status


def test_bodies_have_a_bound_together() -> None:
    room = BodyRoom(max_bytes=100)
    with room.reader() as first, room.reader() as second:
        first.take(60)
        second.take(40)
        with pytest.raises(OverloadedError):
            second.take(1)
    assert room.num_bytes == 0


def test_keys_have_salts_of_their_own() -> None:
    ring = KeyRing(["a", "b"])
    first, second = ring.find(b"a"), ring.find(b"b")
    assert first is not None
    assert second is not None
    assert first.salt != second.salt
    assert first.salt not in {key.salt for key in (KeyRing(["a"]).find(b"a"),) if key}  # of this process alone
    assert ring.find(b"a") == first
    assert [ring.find(wrong) for wrong in (b"", b"A", b"ab", b"a\0", b"\xff")] == [None] * 5
    shared = KeyRing(["a", "b"], shared_prefix_cache=True)
    assert [shared.find(key) for key in (b"a", b"b")] == [ApiKey("key-1", b""), ApiKey("key-2", b"")]
    assert repr(first) == "ApiKey(name='key-1')"
    assert (ANONYMOUS.salt, bool(KeyRing(())), bool(ring)) == (b"", False, True)


def test_a_ready_server_is_warm_stands_and_takes_requests() -> None:
    lifecycle = Lifecycle()
    state = "ready"
    assert lifecycle.obstacle() == "loading"
    lifecycle.warmed_up(lambda: state)
    assert lifecycle.obstacle() is None
    state = "restarting"
    assert lifecycle.obstacle() == "restarting"
    lifecycle.drain()
    assert lifecycle.obstacle() == "draining"
    assert lifecycle.refusal("/v1/models") is not None
    assert lifecycle.refusal("/metrics") is None


class Client:
    """The receiving end of one request whose client leaves when told."""

    def __init__(self) -> None:
        self.leaves = asyncio.Event()
        self.request = Request({"type": "http", "method": "GET", "headers": []}, self._receive)

    async def _receive(self) -> dict[str, Any]:
        await self.leaves.wait()
        return {"type": "http.disconnect"}


def test_work_ends_when_its_client_leaves() -> None:
    async def scenario() -> None:
        client, ended = Client(), asyncio.Event()

        async def work() -> None:
            try:
                client.leaves.set()
                await asyncio.Event().wait()
            finally:
                ended.set()

        with pytest.raises(ClientDisconnect):
            await run_until_disconnected(client.request, work())
        assert ended.is_set()

    asyncio.run(scenario())


def test_work_that_is_done_gives_its_result_or_its_error() -> None:
    async def scenario() -> None:
        async def good() -> int:
            return 3

        async def bad() -> int:
            raise RequestError("bad")

        assert await run_until_disconnected(Client().request, good()) == 3
        with pytest.raises(RequestError):
            await run_until_disconnected(Client().request, bad())
        assert len(asyncio.all_tasks()) == 1

    asyncio.run(scenario())


def test_cancelling_the_waiter_cancels_the_work() -> None:
    async def scenario() -> None:
        began, ended = asyncio.Event(), asyncio.Event()

        async def work() -> None:
            try:
                began.set()
                await asyncio.Event().wait()
            finally:
                ended.set()

        waiter = asyncio.create_task(run_until_disconnected(Client().request, work()))
        await began.wait()
        waiter.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiter
        assert ended.is_set()

    asyncio.run(scenario())
