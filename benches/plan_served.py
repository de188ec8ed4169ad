"""How far simulated percentiles are from those of a real engine that answers the same traffic.

    python benches/plan_served.py                     # after `vivace plan --calibrate`; some 60 s on a quiet machine

Each case is predicted first, with the read rate of that moment, and then played: the same players send the same
requests to an engine in this process, at the moments at which its answers end. All requests count, the first too.
"""

from __future__ import annotations

import argparse
import statistics
import time
from array import array
from dataclasses import dataclass, replace

from vivace.backends.cpu.backend import CpuBackend
from vivace.bench.records import RequestRecord
from vivace.bench.traffic.scenario import make_traffic
from vivace.core.config import EngineConfig
from vivace.core.sampling import SamplingParams
from vivace.engine.engine import Engine
from vivace.engine.loader import LoadedEngine, load_engine
from vivace.plan.deployment import Deployment
from vivace.plan.machine import Machine
from vivace.plan.outcome import Outcome, outcome
from vivace.plan.players import Due, Players
from vivace.plan.simulation import Simulation, Totals
from vivace.plan.step_cost import StepCost
from vivace.plan.step_time import step_model
from vivace.plan.this_machine import read_rate_over, this_machine
from vivace.plan.tokenised_traffic import TokenisedTraffic, WordEncoder, tokenised

MAX_MODEL_LEN = 2_048
MAX_NUM_SEQS, MAX_NUM_BATCHED_TOKENS, BLOCK_SIZE, NUM_KV_BLOCKS = 32, 512, 16, 2_100
FIGURES = (
    *("ttft_ms.p50", "ttft_ms.p95", "itl_ms.p50", "itl_ms.p95", "e2el_ms.p50", "e2el_ms.p95"),
    "tokens_per_s",
)


@dataclass(frozen=True)
class Case:
    model: str
    quantization: str
    scenario: str
    num_requests: int
    users: int | None = None
    rate: float | None = None


CASES = (
    Case("embedded", "int8", "uniform", 160, users=8),
    Case("embedded", "bf16", "rag", 96, rate=24.0),
    Case("qwen2.5-0.5b", "int8", "chat", 32, users=6),
    Case("qwen2.5-0.5b", "int4", "uniform", 24, rate=1.0),
    Case("llama-3.2-1b", "int4", "chat", 16, users=4),
    # The model of a step was not changed after these were first seen.
    Case("embedded", "int4", "agent", 64, users=8),
    Case("embedded", "int8", "system-prompt", 120, rate=30.0),
    Case("qwen2.5-0.5b", "bf16", "system-prompt", 24, users=4),
    Case("qwen2.5-0.5b", "int4", "long-prompt", 10, rate=0.4),
    Case("llama-3.2-1b", "int8", "system-prompt", 12, users=3),
)


class Served:
    """Traffic through a real engine, step by step, in this thread."""

    def __init__(self, engine: Engine, traffic: TokenisedTraffic, players: Players) -> None:
        self._engine = engine
        self._players = players
        self._requests = {str(one.asked.index): one for one in traffic.requests}
        self._due: dict[str, float] = {}
        self._prompts: dict[str, array[int]] = {}
        self._tokens: dict[str, array[int]] = {}
        self._moments: dict[str, list[float]] = {}
        self._start = 0.0

    def play(self) -> list[RequestRecord]:
        records: list[RequestRecord] = []
        self._start = time.perf_counter()
        while len(records) < len(self._requests):
            for due in list(self._players.due(self._now())):
                self._add(due)
            if not self._engine.num_unfinished:
                time.sleep(max(0.0, (self._players.next_s() or 0.0) - self._now()))
                continue
            for event in self._engine.step():
                name = event.request_id
                assert event.token is not None
                self._tokens[name].append(event.token)
                self._moments[name].append(self._now())
                if event.finish is not None:
                    records.append(self._record(name))
                    self._players.ended(self._requests[name], self._now())
        return records

    def _now(self) -> float:
        return time.perf_counter() - self._start

    def _add(self, due: Due) -> None:
        """A turn quotes the answer that was really given."""
        request = due.request
        name, prompt = str(request.asked.index), array("i", request.prompt)
        before = None if request.asked.after is None else self._requests[str(request.asked.after)]
        if before is not None and prompt[: len(before.prompt)] == before.prompt:
            said = self._prompts[str(before.asked.index)] + self._tokens[str(before.asked.index)]
            prompt[: len(said)] = said
        self._prompts[name] = prompt
        self._due[name], self._tokens[name], self._moments[name] = due.moment_s, array("i"), []
        params = SamplingParams(max_tokens=len(request.answer), temperature=0.0, ignore_eos=True)
        self._engine.add(name, prompt, params)

    def _record(self, name: str) -> RequestRecord:
        due_s, moments = self._due[name], tuple(self._moments[name])
        num_prompt = len(self._requests[name].prompt)
        self._engine.forget(name)
        return RequestRecord(int(name), due_s, due_s, moments[-1], "ok", num_prompt, len(moments), moments)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", nargs="*", type=int, default=range(len(CASES)))
    parser.add_argument("--seed", type=int, default=0, help="of the traffic")
    options = parser.parse_args()
    backend = CpuBackend()
    machine = this_machine(backend)
    print(machine.efficiency.basis)
    errors: dict[str, list[float]] = {}
    for case in (CASES[index] for index in options.cases):
        reads = [read_rate_over(backend)]
        predicted, measured = compare(backend, machine, case, options.seed)
        reads.append(read_rate_over(backend))
        line = []
        for name in FIGURES:
            forecast, found = _figure(predicted, name), _figure(measured, name)
            errors.setdefault(name, []).append(forecast / found - 1)
            line.append(f"{name} {found:.4g} predicted {forecast:.4g} ({forecast / found - 1:+.0%})")
        print(
            f"{case}, read at {reads[0] / 1e9:.0f} GB/s before and {reads[1] / 1e9:.0f} after:\n    "
            + "\n    ".join(line),
            flush=True,
        )
    for name, values in errors.items():
        print(f"{name}: median error {statistics.median(map(abs, values)):.1%}, worst {max(map(abs, values)):.0%}")
    print(f"all: median error {statistics.median(abs(one) for values in errors.values() for one in values):.1%}")


def compare(backend: CpuBackend, machine: Machine, case: Case, seed: int = 0) -> tuple[Outcome, Outcome]:
    """Predicted, then played."""
    loaded = _load(backend, case)
    encoder = loaded.tokenizer or WordEncoder()
    made = make_traffic(
        case.scenario,
        tokenizer=encoder,
        num_requests=case.num_requests,
        concurrency=case.users or 16,
        max_model_len=MAX_MODEL_LEN,
        seed=seed,
    )
    traffic = tokenised(made, encoder, BLOCK_SIZE)
    _warm_up(loaded.engine)
    now = replace(machine, read_bytes_per_s=read_rate_over(backend))
    deployment = Deployment(
        case.quantization,
        max_num_seqs=MAX_NUM_SEQS,
        max_num_batched_tokens=MAX_NUM_BATCHED_TOKENS,
        block_size=BLOCK_SIZE,
    )
    cost = StepCost(step_model(loaded.spec, now, deployment), deployment)
    players = Players(traffic, users=case.users, rate=case.rate, seed=seed)
    simulation = Simulation(traffic, players, cost, deployment, num_kv_blocks=NUM_KV_BLOCKS, wake_s=cost.wake_s)
    predicted = outcome(simulation.play(), simulation.totals)
    records = Served(loaded.engine, traffic, Players(traffic, users=case.users, rate=case.rate, seed=seed)).play()
    return predicted, outcome(records, Totals())


def _warm_up(engine: Engine) -> None:
    """Code and memory, not the prefix cache: a prompt of numbers that no text has in this order."""
    engine.add("warm-up", list(range(200, 0, -1)), SamplingParams(max_tokens=8, temperature=0.0, ignore_eos=True))
    while engine.num_unfinished:
        engine.step()


def _load(backend: CpuBackend, case: Case) -> LoadedEngine:
    kind = {} if case.model == "embedded" else {"load_format": "dummy", "config": case.model}
    options = {
        "quantization": case.quantization,
        "num_threads": backend.num_threads,
        "max_model_len": MAX_MODEL_LEN,
        "max_num_seqs": MAX_NUM_SEQS,
        "max_num_batched_tokens": MAX_NUM_BATCHED_TOKENS,
        "block_size": BLOCK_SIZE,
        "num_kv_blocks": NUM_KV_BLOCKS,
    }
    return load_engine(EngineConfig.from_options({**kind, **options}))


def _figure(found: Outcome, name: str) -> float:
    part, _, percentile = name.partition(".")
    value = getattr(found, part)
    return float(getattr(value, percentile) if percentile else value)


if __name__ == "__main__":
    main()
