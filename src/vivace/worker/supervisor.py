"""The engine in another process, as the front sees it: jobs in, streams out, and a restart when it dies."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Literal

import msgspec

from vivace.core.account import RequestAccount
from vivace.core.config import EngineConfig
from vivace.core.errors import ConfigError, EngineError, ModelFileError, RequestError, VivaceError
from vivace.core.events import TokenEvent
from vivace.schedule.block_map import BlockMap
from vivace.worker.accounting import Accounting
from vivace.worker.block_survey import BlockSurvey
from vivace.worker.engine_child import EngineChild, worker_command
from vivace.worker.info import EngineGauges, EngineInfo, added, carried_over
from vivace.worker.job import Job
from vivace.worker.journal import Entry, Journal
from vivace.worker.messages import (
    Abort,
    Command,
    Explain,
    Explained,
    Pooled,
    PromptScores,
    Refused,
    Report,
    Step,
    Stop,
    Survey,
    Surveyed,
)
from vivace.worker.refusal import error_from_data
from vivace.worker.stream import TokenStream

EngineState = Literal["loading", "ready", "restarting", "stopped"]
SLOWEST_MACHINE = 2e10  # operations a second
logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RestartPolicy:
    """When an engine counts as hung, and when restarting it is given up.

    A step takes seconds at most on a machine that suits its model: 120 s without a report is no slow step. A large
    model gets what a full step takes at `SLOWEST_MACHINE`, a tenth of what two cores with AVX2 reach.
    A load that neither reports nor writes for `load_timeout_s` is ended.
    Given up after `max_crashes` in a row that brought no token, found no guilty request, and came each within
    `crash_window_s` of the engine being ready.
    """

    hang_timeout_s: float = 120.0
    load_timeout_s: float = 600.0
    max_crashes: int = 5
    crash_window_s: float = 30.0


class EngineClient:
    """Owns the engine's process and the journal of all live requests. For one event loop; not thread-safe.

    `on_progress(done, total)` counts parameters while a model is loaded. `command` starts the process; the number of
    an inherited socket is appended to it.
    """

    def __init__(
        self,
        config: EngineConfig,
        *,
        on_progress: Callable[[int, int], None] | None = None,
        policy: RestartPolicy | None = None,
        command: Sequence[str] | None = None,
    ) -> None:
        self.state: EngineState = "loading"
        self._config = config
        self._on_progress = on_progress
        self._policy = policy or RestartPolicy()
        self._command = command or worker_command()
        self._info: EngineInfo | None = None
        self._child: EngineChild | None = None
        self._supervision: asyncio.Task[None] | None = None
        self._journal = Journal()
        self._stop_error = EngineError("the engine was closed")
        self._base = EngineGauges()  # totals of the engines that died
        self._current = EngineGauges()
        self._survey = BlockSurvey()
        self._accounting = Accounting()
        self._num_crashes = 0  # in a row, without a token and without a guilty one
        self._has_worked = False  # this engine brought an event
        self._ready_at: float | None = None  # None while it loads

    @property
    def info(self) -> EngineInfo:
        """What was loaded. Raises `EngineError` before `start` has returned."""
        if self._info is None:
            raise EngineError("the engine is not loaded yet")
        return self._info

    @property
    def gauges(self) -> EngineGauges:
        """As of the engine's last step; totals go on over restarts. Requests held here count as waiting."""
        gauges = added(self._base, self._current)
        return msgspec.structs.replace(gauges, num_waiting=gauges.num_waiting + self._journal.num_held)

    def block_map(self) -> BlockMap | None:
        """The last picture of the KV blocks, None until there is one. Asks for the next, once a second at most."""
        if self.state == "ready" and self._child is not None and self._survey.is_due():
            self._child.send(Survey())
        return self._survey.latest

    async def account(self, request_id: str) -> RequestAccount | None:
        """Why a running request takes as long as it does; None where the engine does not have it or does not say."""
        child, entry = self._child, self._journal.find(request_id)
        if child is None or self.state != "ready" or entry is None or not entry.is_present:
            return None
        return await self._accounting.ask(request_id, lambda: child.send(Explain(request_id)))

    @property
    def engine_pid(self) -> int | None:
        """The process that holds the model now."""
        return self._child.pid if self._child else None

    async def start(self) -> EngineInfo:
        """Load the model. Raises what the engine's process raised: `ConfigError`, `ModelFileError`, `EngineError`."""
        if self._supervision is not None:
            raise EngineError("the engine was started twice")
        try:
            self._info = await self._load(self._config)
        except BaseException as error:
            self._give_up(EngineError(f"the engine could not be loaded: {error}"))
            raise
        self._supervision = asyncio.create_task(self._supervise(), name="vivace-supervisor")
        return self._info

    def submit(self, job: Job) -> TokenStream:
        """Begin a request. Never blocks and never raises: what is wrong is raised by the stream."""
        if job.params.seed is None:
            job = replace(job, params=replace(job.params, seed=secrets.randbits(64)))
        stream = TokenStream(job, self, time.monotonic())
        if self.state == "stopped":
            stream.fail(self._stop_error)
        elif self._journal.find(job.request_id) is not None:
            stream.fail(RequestError(f"request id {job.request_id!r} is already running", param="request_id"))
        elif set(map(type, job.prompt)) - {int}:  # 2 ms for 100,000 tokens; the engine would take it for garbage
            stream.fail(RequestError("the prompt must be a list of integer token ids", param="prompt"))
        else:
            self._journal.add(stream)
            self._release()
        return stream

    async def close(self) -> None:
        """End the process and every stream that is left (with `EngineError`). Harmless when repeated."""
        if self._supervision is not None:
            self._supervision.cancel()
            with suppress(asyncio.CancelledError):
                await self._supervision
        if self._child is not None:
            await self._child.end()
        self._give_up(EngineError("the engine was closed"))

    def end_early(self, stream: TokenStream) -> None:
        """`TokenStream.abort`."""
        entry = self._entry_of(stream)
        if entry is not None:
            self._tell(entry, Abort(stream.job.request_id))
            self._end_here(entry, range(len(stream.emitted)), "abort", None)

    def end_continuation(self, stream: TokenStream, index: int, reason: str) -> None:
        """`TokenStream.stop`."""
        entry = self._entry_of(stream)
        if entry is not None:
            self._tell(entry, Stop(stream.job.request_id, index, reason))
            self._end_here(entry, [index], "stop", reason)

    # --- requests -------------------------------------------------------------------------------------------------

    def _entry_of(self, stream: TokenStream) -> Entry | None:
        entry = self._journal.find(stream.job.request_id)
        return entry if entry is not None and entry.stream is stream else None

    def _tell(self, entry: Entry, command: Command) -> None:
        if entry.is_present and self._child is not None:
            self._child.send(command)

    def _end_here(
        self, entry: Entry, indices: Sequence[int], finish: Literal["abort", "stop"], reason: str | None
    ) -> None:
        """The front's own decision: the reader need not wait for the engine to follow."""
        stream = entry.stream
        stream.deliver([TokenEvent(stream.job.request_id, index, None, None, finish, reason) for index in indices])
        if stream.is_finished:
            stream.timings.finished = time.monotonic()
            self._accounting.leave(stream)
            self._journal.leave(entry)
        else:
            self._journal.progress(entry, set(indices))

    def _settle(self, entry: Entry, indices: set[int]) -> None:
        """After events: forget a finished request, clear a suspect."""
        if entry.stream.is_finished:
            self._journal.remove(entry)
        else:
            self._journal.progress(entry, indices)

    def _release(self) -> None:
        child = self._child
        if self.state != "ready" or child is None:
            return
        if self._journal.num_present == 0:
            child.last_heard = time.monotonic()  # an idle engine says nothing
        for entry in self._journal.release():
            try:
                child.send(entry.submission())
                entry.was_submitted = True
            except (EngineError, OverflowError, TypeError) as error:
                entry.stream.fail(RequestError(f"the request cannot be sent to the engine: {error}", param="prompt"))
                self._settle(entry, set())

    # --- reports --------------------------------------------------------------------------------------------------

    def _take(self, report: Report) -> None:
        if isinstance(report, Step):
            self._take_step(report)
            return
        if isinstance(report, Surveyed):
            self._survey.take(report.blocks)
            return
        if isinstance(report, Explained):
            self._accounting.answer(report.request_id, report.account)
            return
        assert isinstance(report, Refused | PromptScores | Pooled)
        entry = self._journal.find(report.request_id)
        if entry is None:
            return
        if isinstance(report, PromptScores):
            entry.stream.add_scores(report.logprobs)
        elif isinstance(report, Pooled):
            entry.stream.embedding = report.embedding
        else:
            entry.stream.fail(error_from_data(report.error))
            self._settle(entry, set())

    def _take_step(self, step: Step) -> None:
        if step.gauges.speculation_verdict != self._current.speculation_verdict:
            logger.info("speculation: %s", step.gauges.speculation_verdict)
        self._current = step.gauges
        for started in step.started:
            entry = self._journal.find(started.request_id)
            if entry is not None and entry.stream.timings.admitted is None:
                timings = entry.stream.timings
                timings.admitted, timings.first_token = started.admitted, started.first_token
                entry.stream.num_cached_tokens = started.num_cached_tokens
        for ended in step.ended:
            entry = self._journal.find(ended.request_id)
            if entry is not None:
                entry.stream.timings.finished = ended.finished
                entry.stream.num_preemptions += ended.num_preemptions
            self._accounting.end(ended.request_id, None if entry is None else entry.stream, ended.account)
        batches: dict[str, list[TokenEvent]] = {}
        for event in step.events:
            batch = batches.get(event.request_id)
            if batch is None:
                batches[event.request_id] = [event]
            else:
                batch.append(event)
        self._has_worked = self._has_worked or bool(batches)
        find, has_suspects = self._journal.find, self._journal.has_suspects
        for request_id, events in batches.items():
            entry = find(request_id)
            if entry is None:
                self._journal.hear_of_unknown(request_id)
            else:
                stream = entry.stream
                stream.deliver(events)
                if has_suspects or not stream.num_unfinished:
                    self._settle(entry, {event.index for event in events})

    # --- life and death -------------------------------------------------------------------------------------------

    async def _load(self, config: EngineConfig) -> EngineInfo:
        """A new process, loaded. On failure nothing of it is left."""
        child = self._child = EngineChild(config, self._take)
        child.on_progress = self._on_progress
        try:
            await child.spawn(self._command)
            await child.loaded_or_lost(self._policy.load_timeout_s)
        except BaseException:
            await child.end()
            raise
        if not child.ready.done():
            raise await self._postmortem(child)
        self._ready_at = time.monotonic()
        self.state = "ready"
        self._release()
        return child.ready.result()

    async def _postmortem(self, child: EngineChild) -> VivaceError:
        error = await child.end()
        if child.trace:
            logger.error("the engine's process failed:\n%s", child.trace)
        return error

    async def _supervise(self) -> None:
        try:
            while self.state == "ready":
                await self._until_lost()
                await self._restart()
        except Exception as error:  # a bug here must not leave readers waiting
            logger.exception("the engine's supervisor failed")
            self._give_up(EngineError(f"the engine's supervisor failed: {error}"))

    async def _until_lost(self) -> None:
        child = self._child
        assert child is not None
        slowest_step_s = 2 * self.info.weight_bytes * self.info.max_num_batched_tokens / SLOWEST_MACHINE
        timeout_s = max(self._policy.hang_timeout_s, slowest_step_s)
        while not child.lost.done():
            began = time.monotonic()
            await asyncio.wait([child.lost], timeout=timeout_s / 4)
            now = time.monotonic()
            if now - began > timeout_s / 2:  # this process was stopped, or busy: what has come is not read yet
                child.last_heard = now
            is_silent = now - child.last_heard > timeout_s
            if is_silent and self._journal.num_present and not child.lost.done():
                child.fail(EngineError(f"it had work but gave no sign of life for {timeout_s:g} s"))

    async def _restart(self) -> None:
        self.state = "restarting"
        child = self._child
        assert child is not None
        error = await self._postmortem(child)
        while True:
            self._bury(error)
            if self._num_crashes >= self._policy.max_crashes:
                reason = f"the engine died {self._num_crashes} times in a row; it is not started again: {error}"
                break
            try:
                await self._load(self._pinned_config())
                return
            except (ConfigError, ModelFileError) as refusal:  # it will not be better the next time
                reason = f"the engine cannot be started again: {refusal}"
                break
            except EngineError as failure:
                error = failure
        logger.error("%s", reason)
        self._give_up(EngineError(reason))

    def _bury(self, error: VivaceError) -> None:
        """Blame, count, and keep the totals."""
        self._survey.forget()
        self._accounting.forget()
        guilty = self._journal.crash()
        uptime_s = 0.0 if self._ready_at is None else time.monotonic() - self._ready_at
        had_calm = self._has_worked or uptime_s > self._policy.crash_window_s
        self._num_crashes = 0 if guilty is not None else 1 if had_calm else self._num_crashes + 1
        self._has_worked, self._ready_at = False, None
        self._base, self._current = carried_over(self.gauges), EngineGauges()
        logger.error("the engine died (%s); restarting it with %d requests", error, len(self._journal))
        if guilty is not None:
            request_id = guilty.stream.job.request_id
            logger.error("request %r was in the engine both times it died: it is not tried again", request_id)
            message = f"the engine died twice over this request, it is not tried again: {error}"
            guilty.stream.fail(EngineError(message))
            self._settle(guilty, set())

    def _pinned_config(self) -> EngineConfig:
        """What was decided stays decided: the memory that is free now must not shorten a running context."""
        info = self.info
        return replace(
            self._config,
            max_model_len=info.max_model_len,
            num_kv_blocks=info.num_kv_blocks,
            max_num_batched_tokens=info.max_num_batched_tokens,
        )

    def _give_up(self, error: EngineError) -> None:
        """End every stream; later ones get the same error."""
        self.state = "stopped"
        self._stop_error = error
        for entry in self._journal:
            entry.stream.fail(error)
            self._settle(entry, set())
