"""Measures one workload: warm-up, repeats, figures with their spread, and each beside its ceiling."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from vivace.bench.ceilings import Ceilings, median_of
from vivace.bench.cost import ModelCost, model_cost
from vivace.bench.metrics import Rates, Spread, e2el_ms, itl_ms, rates, spread, tpot_ms, ttft_ms
from vivace.bench.timeline import Timeline, run
from vivace.bench.workload import Workload
from vivace.engine.loader import LoadedEngine

WARM_UP_SEED = 1 << 32  # no repeat's seed: warm-up prompts must not warm the prefix cache for them


@dataclass(frozen=True, slots=True)
class Measurement:
    """All repeats of one workload. Rates are one sample a repeat; latencies one sample a stream or gap."""

    workload: Workload
    warm_up: int
    rates: tuple[Rates, ...]
    latencies_ms: dict[str, Spread | None]
    cost: ModelCost
    ceilings: Ceilings | None

    def median_rate(self, name: str) -> float | None:
        values = [value for one in self.rates if (value := getattr(one, name)) is not None]
        return statistics.median(values) if values else None

    @property
    def decode_gb_per_s(self) -> float | None:
        """Bytes that decode had to read, a second: weights once a step and every stream's keys and values."""
        speed = self.median_rate("decode_tokens_per_s")
        if speed is None:
            return None
        streams = self.workload.num_requests
        return self.cost.decode_bytes(streams, self._mean_context) * speed / streams / 1e9

    @property
    def decode_gop_per_s(self) -> float | None:
        speed = self.median_rate("decode_tokens_per_s")
        return None if speed is None else self.cost.decode_operations(self._mean_context) * speed / 1e9

    @property
    def prefill_gop_per_s(self) -> float:
        speed = self.median_rate("prefill_tokens_per_s") or 0.0
        return self.cost.prefill_operations(self.workload.prompt_len) * speed / self.workload.prompt_len / 1e9

    @property
    def _mean_context(self) -> float:
        return self.workload.prompt_len + self.workload.output_len / 2

    def record(self) -> dict[str, Any]:
        """For JSON: medians under the field's names, their spread, the work a second, the ceilings."""
        rate_names = ("prefill_tokens_per_s", "decode_tokens_per_s", "output_tokens_per_s", "requests_per_s")
        spreads = {
            name: spread(value for one in self.rates if (value := getattr(one, name)) is not None)
            for name in rate_names
        } | self.latencies_ms
        return {
            **asdict(self.workload),
            "batch_size": self.workload.num_requests,
            "warm_up": self.warm_up,
            "repeats": len(self.rates),
            **{name: one.median if one else None for name, one in spreads.items()},
            "decode_gb_per_s": self.decode_gb_per_s,
            "decode_gop_per_s": self.decode_gop_per_s,
            "prefill_gop_per_s": self.prefill_gop_per_s,
            "ceilings": asdict(self.ceilings) if self.ceilings else None,
            "spread": {name: asdict(one) if one else None for name, one in spreads.items()},
        }


def measure(
    loaded: LoadedEngine,
    workload: Workload,
    *,
    warm_up: int,
    repeats: int,
    seed: int,
    clock: Callable[[], float],
    probe: Callable[[], Ceilings] | None,
    progress: Callable[[int, int], None] | None = None,
) -> Measurement:
    """Run a workload. `probe` measures the machine between repeats: its speed moves with its neighbours' load.

    `progress(done, total)` counts runs.
    """
    timelines: list[Timeline] = []
    ceilings: list[Ceilings] = []
    for index in range(-warm_up, repeats):
        if probe is not None and index >= 0:
            ceilings.append(probe())
        prompts = workload.prompts(
            loaded.spec.vocab_size, seed + index if index >= 0 else WARM_UP_SEED + seed + index
        )
        line = run(loaded.engine, workload, prompts, clock)
        if index >= 0:
            timelines.append(line)
        if progress is not None:
            progress(warm_up + index + 1, warm_up + repeats)
    return Measurement(
        workload=workload,
        warm_up=warm_up,
        rates=tuple(rates(line) for line in timelines),
        latencies_ms={
            "ttft_ms": ttft_ms(timelines),
            "itl_ms": itl_ms(timelines),
            "tpot_ms": tpot_ms(timelines),
            "e2el_ms": e2el_ms(timelines),
        },
        cost=model_cost(loaded.spec, loaded.parameters, loaded.kv_spec),
        ceilings=median_of(ceilings) if ceilings else None,
    )
