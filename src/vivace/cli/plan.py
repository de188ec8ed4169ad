"""`vivace plan`: will a model fit, and how fast, on this machine and on those that you do not have."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from vivace.cli.plan_options import (
    AcceptanceOption,
    AsJSONOption,
    CalibrateOption,
    HardwareOption,
    HTMLOption,
    KvCacheDtypeOption,
    MaxModelLenOption,
    MaxNumBatchedTokensOption,
    MaxNumSeqsOption,
    ModelArgument,
    NumThreadsOption,
    ObjectivePercentileOption,
    ObjectivesOption,
    PriceOption,
    QuantizationOption,
    RateOption,
    SpeculativeConfigOption,
    TraceOption,
    UsersOption,
    WorkloadOption,
)
from vivace.cli.screen import counter
from vivace.core.errors import ConfigError

if TYPE_CHECKING:
    from vivace.models.spec import ModelSpec
    from vivace.plan.comparison import Candidate
    from vivace.plan.deployment import Deployment, SpeculationPlan
    from vivace.plan.machine import Machine
    from vivace.plan.planned_model import PlannedModel
    from vivace.plan.workload import Load, Workload

DEFAULT_HARDWARE = "this,rtx4090,l4,l40s,a100-80,h100,epyc-9654"
DEFAULT_USERS = 16
MOST_USERS = 4096  # of one machine without objectives: a play of so many takes some 40 s
LONGEST_ROW = 200  # columns: a row is never broken, whatever the terminal's width


def plan(
    model: ModelArgument = None,
    hardware: HardwareOption = DEFAULT_HARDWARE,
    workload: WorkloadOption = None,
    trace: TraceOption = None,
    slo: ObjectivesOption = None,
    slo_percentile: ObjectivePercentileOption = 95.0,
    users: UsersOption = None,
    rate: RateOption = None,
    quantization: QuantizationOption = None,
    kv_cache_dtype: KvCacheDtypeOption = "auto",
    max_model_len: MaxModelLenOption = None,
    max_num_seqs: MaxNumSeqsOption = 256,
    max_num_batched_tokens: MaxNumBatchedTokensOption = None,
    num_threads: NumThreadsOption = None,
    speculative_config: SpeculativeConfigOption = None,
    acceptance: AcceptanceOption = 0.6,
    price: PriceOption = None,
    calibrate: CalibrateOption = False,
    as_json: AsJSONOption = False,
    html: HTMLOption = None,
) -> None:
    """Say whether a model fits a machine and how fast it would be there: memory, latency, users, cost."""
    from vivace.core.step_size import CPU_TOKENS_A_STEP
    from vivace.plan.comparison import compare
    from vivace.plan.deployment import Deployment
    from vivace.plan.planned_model import planned_model
    from vivace.plan.weights import quantization_name

    quantizations = [quantization_name(name) for name in _names(quantization or "")]
    load = _load(users, rate, slo, slo_percentile, trace)
    planned = planned_model(model)
    deployment = Deployment(
        kv_cache_dtype=_kv_cache_dtype(kv_cache_dtype),
        max_model_len=_context(planned.spec, max_model_len),
        max_num_seqs=max_num_seqs,
        max_num_batched_tokens=max_num_batched_tokens or CPU_TOKENS_A_STEP,
        num_threads=num_threads,
        speculation=_speculation(speculative_config, acceptance),
    )
    traffic = _workload(workload, trace, deployment)
    prices, machines = _prices(price or []), _machines(_names(hardware), calibrate)
    options: dict[str, Any] = {"deployment": deployment, "quantizations": quantizations, "prices": prices}
    options["usual_steps"] = max_num_batched_tokens is None
    counted = counter("plans", after_s=1.0)
    candidates = compare(planned, machines, traffic, load, progress=counted, **options)
    _tell(planned, candidates, traffic, load, html=html, as_json=as_json)


def _tell(
    planned: PlannedModel,
    candidates: list[Candidate],
    traffic: Workload,
    load: Load,
    *,
    html: Path | None,
    as_json: bool,
) -> None:
    from vivace.plan.recommendation import recommendation

    sentences = recommendation(planned, candidates, load)
    if html is not None:
        _write(html, planned, candidates, traffic, load, sentences)
    if as_json:
        print(json.dumps(_record(planned, candidates, traffic, load, sentences)))
        return
    _print(planned, candidates, traffic, load, sentences)


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _kv_cache_dtype(name: str) -> Any:
    from vivace.core.config import CHOICES, KV_CACHE_ALIASES

    name = KV_CACHE_ALIASES.get(name, name)
    if name not in CHOICES["kv_cache_dtype"]:
        raise ConfigError(f"--kv-cache-dtype must be one of {', '.join(CHOICES['kv_cache_dtype'])}")
    return name


def _load(
    users: int | None, rate: float | None, slo: list[str] | None, percentile: float, trace: Path | None
) -> Load:
    from vivace.bench.slo import SLO
    from vivace.plan.workload import Load

    if not 0 < percentile <= 100:
        raise ConfigError(f"--slo-percentile is above 0, 100 at most, not {percentile:g}")
    if users is None and rate is None and trace is None:
        users = DEFAULT_USERS
    if users is not None and users > MOST_USERS and not slo:
        raise ConfigError(f"more than {MOST_USERS:,} users need an --slo, which says how many share a machine")
    return Load(users, rate, SLO.parse(slo) if slo else None, percentile / 100)


def _context(spec: ModelSpec, wanted: int | None) -> int:
    from vivace.plan.workload import DEFAULT_CONTEXT

    longest = spec.max_position_embeddings
    if wanted is not None and wanted > longest:
        raise ConfigError(f"--max-model-len {wanted} is more than the model's own context of {longest}")
    return wanted or min(longest, DEFAULT_CONTEXT)


def _workload(name: str | None, trace: Path | None, deployment: Deployment) -> Workload:
    from vivace.plan.workload import trace_workload, workload

    if name is not None and trace is not None:
        raise ConfigError("give --workload or --trace, not both")
    context = deployment.max_model_len or 0
    if trace is not None:
        return trace_workload(trace, max_model_len=context, block_size=deployment.block_size)
    return workload(name or "chat", max_model_len=context, block_size=deployment.block_size)


def _speculation(config: str | None, acceptance: float) -> SpeculationPlan | None:
    from vivace.core.speculation import SpeculativeConfig
    from vivace.plan.deployment import SpeculationPlan
    from vivace.plan.planned_model import planned_model

    wanted = SpeculativeConfig.parse(config)
    if wanted is None:
        return None
    draft = planned_model(wanted.model).spec if wanted.method == "draft_model" else None
    return SpeculationPlan(wanted.num_speculative_tokens, acceptance, draft)


def _machines(names: list[str], calibrate: bool) -> list[Machine]:
    from vivace.core.config import EngineConfig
    from vivace.plan.confirmation import calibrate_confirmed
    from vivace.plan.hardware import NAMES, hardware
    from vivace.plan.this_gpu import calibrate_gpu
    from vivace.plan.this_machine import this_machine

    expanded = (each for name in names for each in (["this", *NAMES] if name == "all" else [name]))
    wanted = list(dict.fromkeys(expanded))
    if not wanted:
        raise ConfigError(f"--hardware needs a name: this, {', '.join(NAMES)}")
    if calibrate and "this" not in wanted:
        raise ConfigError("--calibrate measures this machine: add `this` to --hardware")
    known = {name: hardware(name) for name in wanted if name != "this"}  # before anything is measured
    if "this" in wanted:
        if calibrate and calibrate_gpu(EngineConfig(), progress=counter("measurements")) is None:
            calibrate_confirmed(progress=counter("measurements"))
        known["this"] = this_machine()
    return [known[name] for name in wanted]


def _prices(entries: list[str]) -> dict[str, float]:
    from vivace.core.nearest_name import nearest_name
    from vivace.plan.hardware import NAMES

    prices = {}
    for entry in " ".join(entries).replace(",", " ").split():
        name, _, value = entry.partition("=")
        amount, _, unit = value.partition("/")
        try:
            number = float(amount)
        except ValueError:
            number = -1.0
        if not name or unit not in ("", "h") or not 0 < number < float("inf"):
            raise ConfigError(f"a price is MACHINE=AMOUNT/h, as in h100=2.5/h, not {entry!r}")
        if name not in ("this", *NAMES):
            raise ConfigError(f"--price: no machine {name!r} in the table{nearest_name(name, NAMES)}")
        prices[name] = number
    return prices


def _record(
    planned: PlannedModel, candidates: list[Candidate], workload: Workload, load: Load, sentences: list[str]
) -> dict[str, Any]:
    from dataclasses import asdict

    return {
        "model": planned.name,
        "num_parameters": planned.num_parameters,
        "workload": workload.name,
        "load": asdict(load),
        "traffic": asdict(workload.shape(load)),
        "recommendation": sentences,
        "candidates": [one.record() for one in candidates],
    }


def _write(
    path: Path,
    planned: PlannedModel,
    candidates: list[Candidate],
    workload: Workload,
    load: Load,
    sentences: list[str],
) -> None:
    from vivace.formats.text_file import write_text
    from vivace.plan.report import html

    write_text(path, html(planned, candidates, workload, load, sentences))


def _print(
    planned: PlannedModel, candidates: list[Candidate], workload: Workload, load: Load, sentences: list[str]
) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    from vivace.plan.row import cells, columns, load_words, size_words

    names, rows = columns(load), [cells(one, load) for one in candidates]
    shown = [index for index in range(len(names)) if index < 3 or _tells(index, rows)]
    console = Console(highlight=False)
    console.print(f"{planned.name}, {size_words(planned.num_parameters)}", soft_wrap=True, style="bold")
    console.print(load_words(workload, load), soft_wrap=True)
    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for index in shown:
        heading = names[index].replace(" ", "\n", 1) if index > 2 else names[index]
        table.add_column(heading.replace("ms p50", "ms\np50"), justify=_justify(index, names), no_wrap=True)
    for before, row in zip([None, *rows], rows, strict=False):
        if before is not None and row[0] != before[0]:
            table.add_section()
        name = "" if before is not None and row[0] == before[0] else row[0]
        table.add_row(name, *(row[index] for index in shown[1:]))
    width = table.__rich_measure__(console, console.options.update(max_width=LONGEST_ROW)).maximum
    Console(highlight=False, width=max(console.width, width)).print(table)
    for index, sentence in enumerate(sentences):
        console.print(f"  {sentence}", soft_wrap=True, style="bold" if index == 0 else None)
    console.print()
    for basis in dict.fromkeys(_basis(one) for one in candidates):
        machines = ", ".join(dict.fromkeys(one.machine.name for one in candidates if _basis(one) == basis))
        console.print(f"  {machines}: {basis}", soft_wrap=True, style="dim")


def _tells(index: int, rows: list[tuple[str, ...]]) -> bool:
    """Whether a column says anything: one machine for everybody says nothing."""
    from vivace.plan.row import MACHINES

    silent = ("", "1") if index == MACHINES else ("",)
    return any(row[index] not in silent for row in rows)


def _justify(index: int, names: tuple[str, ...]) -> Literal["left", "right"]:
    return "left" if index in (0, 1, len(names) - 1) else "right"


def _basis(one: Candidate) -> str:
    efficiency = one.machine.efficiency
    return f"{efficiency.basis}; {efficiency.checked}" if efficiency.checked else efficiency.basis
