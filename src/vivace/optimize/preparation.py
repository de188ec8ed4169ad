"""From what the user asked to a search that can run."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from vivace import __version__
from vivace.backends.cpu.detect import available_cores
from vivace.bench.slo import SLO
from vivace.core.config import EngineConfig
from vivace.core.errors import ConfigError
from vivace.engine.backend import free_memory_bytes, gpu_backend
from vivace.evaluate.evaluation import Plan, sample_text
from vivace.evaluate.tasks import PosedTask
from vivace.optimize.candidate import Candidate
from vivace.optimize.engine_laboratory import EngineLaboratory
from vivace.optimize.engine_shelf import EngineShelf
from vivace.optimize.forecast import PlanForecaster
from vivace.optimize.gate import Gate, QualityBar
from vivace.optimize.judge import Judge
from vivace.optimize.kv_pool import KVPool
from vivace.optimize.notebook import Memory, Notebook
from vivace.optimize.objective import Objective
from vivace.optimize.optimization import Optimization
from vivace.optimize.space import Space, Surroundings, make_space, naive
from vivace.optimize.subject import Subject, read_subject
from vivace.optimize.this_machine import machine_identity, machine_words, measured_machine
from vivace.optimize.time_budget import TimeBudget
from vivace.optimize.traffic_run import TrafficRun
from vivace.optimize.trials import Report, Trials
from vivace.optimize.workload import (
    DEFAULT_WORKLOAD,
    LEAST_REQUESTS,
    MOST_REQUESTS,
    Workload,
    check_workload,
    make_workload,
)

METHOD = 4  # of measuring: figures of another one are not comparable
LEAST_SECONDS = 10.0  # the embedded model's: reading, ceilings, the baseline's warm-up, a heat and a judgement take 7
RUN_SHARE = 0.012  # of the time budget: what one run of the crowd should take on a fast candidate
SWEPT = 1 / 3  # of the requests, where each candidate runs them at several rates
LIMIT_SHARE = 0.02  # and where a slow one is cut off
ROOM_SHARE = 0.5  # of the free memory: for candidates that run together
NUM_PROBES, PROBE_PROMPT = 8, 256
LARGE = 200_000_000  # parameters: 4-bit weights of so many are larger than most last-level caches
# Characters of text that quality is judged by: all of the sample for small models, less where a token takes longer.
MOST_TEXT, LEAST_TEXT, TEXT_WORK = 24_000, 3_000, 6e12


@dataclass(frozen=True, slots=True)
class Inquiry:
    """What the user asked. `text` is what quality is judged by, None for the package's sample."""

    config: EngineConfig
    workload: str = DEFAULT_WORKLOAD
    slo: SLO | None = None
    bar: QualityBar = field(default_factory=QualityBar)
    max_memory_bytes: int | None = None
    objective: str | None = None
    request_rate: float | None = None
    seconds: float = 270.0
    text: str | None = None
    tasks: tuple[PosedTask, ...] = ()
    draft: str | None = None

    def check(self) -> Objective:
        """Raises `ConfigError` for what cannot be meant, before anything is loaded."""
        check_workload(self.workload)
        if self.seconds < LEAST_SECONDS:
            raise ConfigError(
                f"a search takes {LEAST_SECONDS:g} seconds at least, larger models longer: give --time-budget 4m"
            )
        if self.bar.task_points is not None and not self.tasks:
            raise ConfigError("a bar on tasks needs tasks: name files with --task")
        if self.config.backend == "reference":
            raise ConfigError(
                "the reference backend is there to be compared with, not to be optimised: leave --backend"
            )
        return Objective.parse(self.objective, self.slo, self.request_rate)

    def identity(self, subject: Subject, machine: dict[str, object]) -> dict[str, Any]:
        """What every figure depends on beside the traffic: figures of another identity are not recalled."""
        return {
            "version": __version__,
            "method": METHOD,
            "model": subject.identity,
            "context": subject.config.max_model_len,
            "machine": machine,
            "workload": self.workload,
            "seed": subject.config.seed,
            "seconds": self.seconds,
            "slo": None if self.slo is None else str(self.slo),
            "swept": self.check().is_at_rates,
            "request_rate": self.request_rate,
            "evaluation": Plan(self.text, self.tasks).identity(),
        }


@dataclass(frozen=True, slots=True)
class Prepared:
    """A search that is ready, and what the report says about it."""

    optimization: Optimization
    subject: Subject
    shelf: EngineShelf
    num_known: int
    facts: dict[str, Any]

    def engine_config(self, candidate: Candidate) -> EngineConfig:
        """As it ran."""
        return self.shelf.config(candidate)


def prepare(inquiry: Inquiry, memory: Memory, report: Report, clock: Callable[[], float]) -> Prepared:
    """Reads the model, measures the machine's ceilings, cuts the workload to the time. Raises `ConfigError`."""
    started = clock()
    objective = inquiry.check()
    report("reading the model", None)
    subject = read_subject(inquiry.config, inquiry.draft)
    machine = machine_identity(subject.config)
    identity = inquiry.identity(subject, machine)
    report("measuring the machine", None)
    sizing = _Sizing(inquiry, subject, memory, identity)
    workload = sizing.workload()
    surroundings = _surroundings(subject, workload, inquiry)
    shelf = sizing.shelf(workload)
    start = naive(surroundings)
    space = make_space(surroundings)
    machine_now = measured_machine(subject.config)
    forecaster = PlanForecaster(subject.spec, machine_now, workload, sizing.pool(workload), subject.stored_as)
    laboratory = EngineLaboratory(
        shelf,
        workload,
        baseline=_baseline(_pulsing(space, subject), surroundings),
        forecaster=forecaster,
        judge=None if subject.is_random else _judge(shelf, start, subject, workload, inquiry),
        slo=inquiry.slo,
        offered_per_s=inquiry.request_rate,
        limit_s=max(1.0, LIMIT_SHARE * inquiry.seconds),
        room_bytes=ROOM_SHARE * free_memory_bytes(subject.config),
    )
    notebook = Notebook(memory, {**identity, "traffic": workload.digest})
    budget = TimeBudget(inquiry.seconds, clock, started)
    optimization = Optimization(
        trials=Trials(laboratory, notebook, budget, report, sweeps=objective.is_at_rates),
        space=space,
        surroundings=surroundings,
        naive=start,
        gate=Gate(inquiry.bar, inquiry.max_memory_bytes),
        objective=objective,
        spec=subject.spec,
    )
    facts = _facts(inquiry, subject, machine, workload)
    return Prepared(optimization, subject, shelf, notebook.num_known, facts)


def _facts(inquiry: Inquiry, subject: Subject, machine: dict[str, object], workload: Workload) -> dict[str, Any]:
    """What the report says about the run."""
    return {
        "version": __version__,
        "model": subject.name,
        "machine": machine_words(machine),
        "workload": f"{inquiry.workload} ({workload.num_requests} requests, {workload.users} users)",
        "quality_bar": "none: random weights" if subject.is_random else str(inquiry.bar),
        "slo": None if inquiry.slo is None else str(inquiry.slo),
        "request_rate_per_s": inquiry.request_rate,
        "max_memory_bytes": inquiry.max_memory_bytes,
        "time_budget_s": inquiry.seconds,
    }


@dataclass(frozen=True, slots=True)
class _Sizing:
    """How many requests there is time for: a few are run on the baseline."""

    inquiry: Inquiry
    subject: Subject
    memory: Memory
    identity: dict[str, Any]

    def workload(self) -> Workload:
        notebook = Notebook(self.memory, {**self.identity, "what": "size"})
        count = notebook.entry("requests", lambda: {"count": self._count()})["count"]
        return self._of(int(count))

    def shelf(self, workload: Workload) -> EngineShelf:
        return EngineShelf(self.subject.config, self.pool(workload).num_blocks)

    def pool(self, workload: Workload) -> KVPool:
        return KVPool.of(workload, self.subject.spec, self.subject.config)

    def _of(self, count: int) -> Workload:
        return make_workload(self.inquiry.workload, self.subject.reader, count, self.subject.config.seed)

    def _count(self) -> int:
        workload = self._of(LEAST_REQUESTS)
        surroundings = _surroundings(self.subject, workload, self.inquiry)
        quantization = make_space(surroundings).axes["quantization"][-1]
        loaded = self.shelf(workload).engine(_baseline(quantization, surroundings))
        TrafficRun(loaded.engine, workload.reader, workload.warm_up()).run()
        limit_s = LIMIT_SHARE * self.inquiry.seconds
        records = TrafficRun(loaded.engine, workload.reader, workload.crowd, limit_s=limit_s).run()
        done = max(1, sum(record.status == "ok" for record in records))
        seconds = max(record.ended_s for record in records) / done
        share = RUN_SHARE * (SWEPT if self.inquiry.check().is_at_rates else 1.0)
        count = math.floor(share * self.inquiry.seconds / max(seconds, 1e-6))
        return max(LEAST_REQUESTS, min(MOST_REQUESTS, count))


def _pulsing(space: Space, subject: Subject) -> Any:
    """Weights of what drift is told by: of 16 bits, so that it feels memory as well as arithmetic; of a large model
    the narrowest, which come from memory in any case, at a third of the time a step."""
    weights = space.axes["quantization"]
    return weights[0] if subject.num_parameters < LARGE else weights[-1]


def _baseline(quantization: Any, surroundings: Surroundings) -> Candidate:
    """Always the same."""
    threads = surroundings.fixed_threads or surroundings.num_threads
    return Candidate(quantization=quantization, max_num_seqs=16, num_threads=threads)


def _surroundings(subject: Subject, workload: Workload, inquiry: Inquiry) -> Surroundings:
    return Surroundings(
        is_float=subject.is_float,
        num_parameters=subject.num_parameters,
        head_dim=subject.spec.head_dim,
        num_threads=None if gpu_backend(inquiry.config) else available_cores(),
        users=workload.users,
        longest_tokens=workload.longest_tokens,
        drafts=subject.drafts,
        has_quality=not subject.is_random,
        fixed_threads=inquiry.config.num_threads,
        seconds=inquiry.seconds,
    )


def _judge(shelf: EngineShelf, start: Candidate, subject: Subject, workload: Workload, inquiry: Inquiry) -> Judge:
    length = int(min(MOST_TEXT, max(LEAST_TEXT, TEXT_WORK / subject.num_parameters)))
    text = (inquiry.text or sample_text())[:length]
    prompts = [workload.reader.token_ids(request)[:PROBE_PROMPT] for request in workload.alone.requests[:NUM_PROBES]]
    reference = replace(start, batching="continuous")
    return Judge(shelf, reference, text, prompts, inquiry.tasks)
