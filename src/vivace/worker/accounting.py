"""Accounts of requests on their way from the engine: of finished ones with their end, of running ones on demand."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress

from vivace.core.account import RequestAccount
from vivace.worker.stream import TokenStream

MAX_LEAVERS = 1024  # streams that the front ended itself; the engine's account of them is on its way
MAX_ASKED = 64  # questions that are open at once
PATIENCE_S = 5.0  # the engine answers between two steps


class Accounting:
    """For one event loop. Nothing of it is needed for a request to be served."""

    def __init__(self) -> None:
        self._leavers: OrderedDict[str, TokenStream] = OrderedDict()
        self._asked: dict[str, asyncio.Future[RequestAccount | None]] = {}

    def leave(self, stream: TokenStream) -> None:
        """The front has ended it; the engine will say so too."""
        if stream.when_accounted is None:
            return
        self._leavers[stream.job.request_id] = stream
        if len(self._leavers) > MAX_LEAVERS:
            self._leavers.popitem(last=False)

    def end(self, request_id: str, stream: TokenStream | None, account: RequestAccount | None) -> None:
        """The engine's account of a request that has ended; `stream` is None where the front knows of none."""
        stream = stream or self._leavers.pop(request_id, None)
        if account is not None and stream is not None and stream.when_accounted is not None:
            stream.when_accounted(account)

    def answer(self, request_id: str, account: RequestAccount | None) -> None:
        future = self._asked.get(request_id)
        if future is not None and not future.done():
            future.set_result(account)

    async def ask(self, request_id: str, send: Callable[[], None]) -> RequestAccount | None:
        """Of a running request; None where the engine does not say. Who asks for the same one shares the answer."""
        future = self._asked.get(request_id)
        if future is None and len(self._asked) >= MAX_ASKED:
            return None
        if future is not None:
            return await self._within(future)
        future = self._asked[request_id] = asyncio.get_running_loop().create_future()
        try:
            send()
            return await self._within(future)
        finally:
            self.answer(request_id, None)
            del self._asked[request_id]

    def forget(self) -> None:
        """The engine is gone."""
        self._leavers.clear()
        for request_id in list(self._asked):
            self.answer(request_id, None)

    @staticmethod
    async def _within(future: asyncio.Future[RequestAccount | None]) -> RequestAccount | None:
        with suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE_S):
                return await asyncio.shield(future)
        return None
