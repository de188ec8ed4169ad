"""A server's life: listen, load, warm up, serve, drain, end."""

from __future__ import annotations

import asyncio
import logging
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import uvloop

from vivace.core.config import EngineConfig
from vivace.core.errors import ConfigError, EngineError
from vivace.core.sampling import SamplingParams
from vivace.engine.loader import load_model_tokenizer
from vivace.engine.tokenizer import Tokenizer
from vivace.formats.atomic_file import atomic_writer
from vivace.serve.admission import Admission, AdmissionLimits
from vivace.serve.app import build_app
from vivace.serve.authentication import KeyRing
from vivace.serve.config import ServeConfig
from vivace.serve.http_server import HttpServer, is_loopback
from vivace.serve.lifecycle import Lifecycle
from vivace.serve.logs import logging_to_stderr
from vivace.serve.service import Service
from vivace.serve.tracing import make_tracer
from vivace.worker.compiler import CompilerClient
from vivace.worker.info import EngineInfo
from vivace.worker.job import Job
from vivace.worker.supervisor import EngineClient, RestartPolicy

NUM_THREADS = 4  # for what would hold up the event loop: large bodies, loading a tokenizer
ENDING_SIGNALS = (signal.SIGTERM, signal.SIGINT)

logger = logging.getLogger("vivace.serve")


def serve(engine_config: EngineConfig, config: ServeConfig) -> int:
    """Serve until a signal ends it; returns the exit code. Raises `ConfigError` and `ModelFileError` at the start.

    The first SIGTERM or SIGINT drains: 0, whether or not every stream ended in time. A second one ends at once: 128
    and the signal's number.
    """
    with logging_to_stderr(config.log_format, access_log=config.access_log):
        runner = asyncio.Runner(loop_factory=uvloop.new_event_loop)
        with runner:
            return runner.run(_Server(engine_config, config).run())


class _Server:
    def __init__(self, engine_config: EngineConfig, config: ServeConfig) -> None:
        self._engine_config = engine_config
        self._config = config
        self._lifecycle = Lifecycle()
        keys = config.all_api_keys()
        ring = KeyRing(keys, shared_prefix_cache=config.shared_prefix_cache)
        self._is_open = not keys
        self._app = build_app(config, self._lifecycle, ring)
        self._http = HttpServer(self._app, config, self._app.state.metrics.http)
        self._engine = EngineClient(engine_config, policy=RestartPolicy(load_timeout_s=config.load_timeout_s))
        self._names = config.served_model_name or (model_name(engine_config),)
        self._tracer = make_tracer(config.otlp_endpoint, self._names[0])
        self._service: Service | None = None
        self._signals: list[int] = []
        self._asked = asyncio.Event()  # to end
        self._asked_again = asyncio.Event()

    async def run(self) -> int:
        loop = asyncio.get_running_loop()
        loop.set_default_executor(ThreadPoolExecutor(NUM_THREADS, thread_name_prefix="vivace-front"))
        for number in ENDING_SIGNALS:
            loop.add_signal_handler(number, self._take_signal, number)
        port = await self._http.listen()
        loading = asyncio.create_task(self._load(), name="vivace-load")
        try:
            self._announce_address(port)
            await _first_of(loading, self._asked)
            if loading.done():
                await loading
                await self._asked.wait()
            return await self._drain()
        finally:
            loading.cancel()
            await asyncio.gather(loading, return_exceptions=True)
            await self._end()

    def _take_signal(self, number: int) -> None:
        self._signals.append(number)
        (self._asked_again if self._asked.is_set() else self._asked).set()

    async def _load(self) -> None:
        """The engine, the tokenizer, one token; then the server is ready."""
        started = time.monotonic()
        info = await self._engine.start()
        tokenizer = await asyncio.to_thread(_front_tokenizer, self._engine_config)
        config = self._config
        limits = AdmissionLimits(
            info,
            max_queued_requests=config.max_queued_requests,
            max_queued_tokens=config.max_queued_tokens,
            max_queue_s=config.max_queue_s,
        )
        compiler = CompilerClient(self._engine_config)
        self._service = Service(
            self._engine,
            compiler,
            tokenizer,
            Admission(limits, state=lambda: self._engine.gauges),
            self._app.state.metrics,
            self._names,
            request_timeout_s=config.request_timeout_s,
            tracer=self._tracer,
        )
        await compiler.start()
        await self._warm_up()
        self._app.state.service = self._service
        self._app.state.metrics.event_loop.start()
        self._lifecycle.warmed_up(lambda: self._engine.state)
        _announce_model(self._service.model_names, info, time.monotonic() - started)

    async def _warm_up(self) -> None:
        """One token through everything. Its prompt is shorter than a block: no block stays cached."""
        params = SamplingParams(max_tokens=1, temperature=0.0, ignore_eos=True, seed=0)
        num_tokens = 0
        async for events in self._engine.submit(Job("warm-up", [0], params)):
            num_tokens += sum(event.token is not None for event in events)
        if num_tokens != 1:
            raise EngineError("the engine did not generate its first token")

    async def _drain(self) -> int:
        """Let what runs end. New requests are refused from here on."""
        self._lifecycle.drain()
        logger.info("draining: running requests have %g s to end", self._config.drain_timeout)
        draining = asyncio.create_task(self._http.drain(self._config.drain_timeout), name="vivace-drain")
        await _first_of(draining, self._asked_again)
        if not draining.done():
            draining.cancel()
            await asyncio.gather(draining, return_exceptions=True)
            logger.warning("ending at once: a second signal came")
            return 128 + self._signals[1]
        if not draining.result():
            logger.warning("the drain time is over: requests that still run are cut off")
        return 0

    async def _end(self) -> None:
        await self._http.close()
        self._app.state.metrics.event_loop.stop()
        await self._engine.close()
        if self._service is not None:
            await self._service.close()
        if self._tracer is not None:
            self._tracer.close()
        if self._config.port_file is not None:
            Path(self._config.port_file).unlink(missing_ok=True)

    def _announce_address(self, port: int) -> None:
        config = self._config
        host = f"[{config.host}]" if ":" in config.host else config.host
        logger.info("listening on %s://%s:%d; loading %s", config.scheme, host, port, model_name(self._engine_config))
        if self._is_open and not is_loopback(config.host):
            logger.warning("no API key is set and %s is not this machine alone: anybody may use it", config.host)
        if config.port_file is not None:
            _write_port(config.port_file, port)


def model_name(config: EngineConfig) -> str:
    """What a model is called where nobody named it: a hub name in full, of a path the last part."""
    chosen = config.model or config.config
    if chosen is None:
        return "vivace-embedded"
    path = Path(chosen).expanduser()
    return (path.resolve().stem if path.is_file() else path.resolve().name) if path.exists() else chosen


async def _first_of(task: asyncio.Task[object], event: asyncio.Event) -> None:
    """Until the task is done or the event is set."""
    waiting = asyncio.create_task(event.wait())
    try:
        await asyncio.wait({task, waiting}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        waiting.cancel()


def _front_tokenizer(config: EngineConfig) -> Tokenizer | None:
    if config.load_format == "dummy" and not (config.tokenizer or config.model):
        return None
    return load_model_tokenizer(config)


def _announce_model(names: tuple[str, ...], info: EngineInfo, seconds: float) -> None:
    logger.info("serving %s, ready after %.1f s", ", ".join(names), seconds)
    for choice in info.choices:
        logger.info("%s = %s: %s", choice.name, choice.value, choice.reason)


def _write_port(path: str, port: int) -> None:
    try:
        with atomic_writer(path) as file:
            file.write(f"{port}\n".encode())
    except OSError as error:
        raise ConfigError(f"cannot write the port to {path}: {error.strerror}") from None
