"""A whole server on loopback, in a thread of this process; its engine in a process of its own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn

from vivace.core.config import EngineConfig
from vivace.engine.loader import load_model_tokenizer
from vivace.serve.admission import Admission, AdmissionLimits
from vivace.serve.app import build_app
from vivace.serve.authentication import KeyRing
from vivace.serve.config import ServeConfig
from vivace.serve.lifecycle import Lifecycle
from vivace.serve.metrics import ServerMetrics
from vivace.serve.routes import chat, completions, embeddings, health, metrics, models, openapi, responses, tokenize
from vivace.serve.service import Service
from vivace.worker.supervisor import EngineClient

DEADLINE_S = 60.0
ROUTES = [
    route
    for module in (health, metrics, models, tokenize, completions, chat, responses, embeddings, openapi)
    for route in module.ROUTES
]


class RunningServer:
    def __init__(self, config: EngineConfig, serve_config: ServeConfig) -> None:
        self._config = config
        self._serve_config = serve_config
        self._is_up = threading.Event()
        self._failure: BaseException | None = None
        self.service: Service | None = None
        self.loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=self._run, name="test-server")

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        self._thread.start()
        assert self._is_up.wait(DEADLINE_S)
        if self._failure is not None:
            raise self._failure

    def stop(self) -> None:
        self._server.should_exit = True
        self._thread.join(DEADLINE_S)
        assert not self._thread.is_alive()

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except BaseException as error:
            self._failure = error
        finally:
            self._is_up.set()

    async def _serve(self) -> None:
        self.loop = asyncio.get_running_loop()
        engine = EngineClient(self._config)
        info = await engine.start()
        lifecycle = Lifecycle()
        lifecycle.warmed_up(lambda: engine.state)
        app = build_app(self._serve_config, lifecycle, KeyRing(self._serve_config.api_key), ROUTES)
        admission = Admission(AdmissionLimits(info))
        service = Service(engine, load_model_tokenizer(self._config), admission, ServerMetrics(), ("vivace-test",))
        app.state.service = self.service = service
        self._server = uvicorn.Server(
            uvicorn.Config(app, host="127.0.0.1", port=0, log_level="warning", lifespan="off")
        )
        serving = asyncio.create_task(self._server.serve())
        while not self._server.started and not serving.done():
            await asyncio.sleep(0.01)
        self.port = self._server.servers[0].sockets[0].getsockname()[1]
        self._is_up.set()
        await serving
        service.close()
        await engine.close()


@contextmanager
def running_server(serve_config: ServeConfig | None = None, **options: Any) -> Iterator[RunningServer]:
    server = RunningServer(EngineConfig.from_options(options), serve_config or ServeConfig())
    server.start()
    try:
        yield server
    finally:
        server.stop()
