"""The laboratory with the engine in it: candidates run in this process, on the code that serves."""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from vivace.bench.records import RequestRecord
from vivace.bench.slo import SLO
from vivace.bench.summary import Summary, summarise
from vivace.core.errors import ConfigError
from vivace.core.sampling import SamplingParams
from vivace.engine.loader import LoadedEngine
from vivace.optimize.candidate import Candidate
from vivace.optimize.engine_shelf import EngineShelf
from vivace.optimize.judge import Judge
from vivace.optimize.measurement import Forecast, Interaction, Measurement, Quality
from vivace.optimize.traffic_run import TrafficRun
from vivace.optimize.workload import Workload
from vivace.speculate.speculation import SpeculationStats

PULSE_S = 0.15
WARM_UP_S = 1.0  # pages, caches and clock speeds settle: the first rounds run at 60% of the speed of later ones
PULSE_STREAMS, PULSE_PROMPT, PULSE_TOKENS = 4, 32, 16


@dataclass(slots=True)
class EngineLaboratory:
    """`judge` is None for random weights. A run ends after `limit_s` seconds and one answer."""

    shelf: EngineShelf
    workload: Workload
    baseline: Candidate
    forecaster: Callable[[Candidate], Forecast]
    judge: Judge | None = None
    slo: SLO | None = None
    limit_s: float = math.inf
    _pulse_engine: LoadedEngine | None = None
    _num_pulses: int = field(default=0)

    def clock(self) -> float:
        return time.monotonic()

    def measure(self, candidate: Candidate, share: float) -> Measurement:
        """One user alone first, so that what the crowd leaves in the prefix cache helps nobody."""
        workload = self.workload.part(share)
        gc.collect()
        loaded = self.shelf.engine(candidate)
        engine, reader = loaded.engine, workload.reader
        TrafficRun(engine, reader, workload.warm_up()).run()
        alone = TrafficRun(engine, reader, workload.alone, limit_s=self.limit_s).run()
        crowd = TrafficRun(engine, reader, workload.crowd, limit_s=self.limit_s).run()
        return _measurement(loaded, crowd, summarise(alone, (), None), summarise(crowd, (), self.slo))

    def pulse(self) -> float:
        """Rounds of a few streams on an engine that stays, for `PULSE_S` seconds."""
        if self._pulse_engine is None:
            self._pulse_engine = self.shelf.engine(replace(self.baseline, enable_prefix_caching=False))
            self._beat(WARM_UP_S)
        return self._beat(PULSE_S)

    def quality(self, candidate: Candidate) -> Quality | None:
        return None if self.judge is None else self.judge.quality(candidate)

    def interaction(self, candidate: Candidate) -> Interaction:
        return Interaction(0, 0) if self.judge is None else self.judge.interaction(candidate)

    def forecast(self, candidate: Candidate) -> Forecast:
        return self.forecaster(candidate)

    def _beat(self, seconds: float) -> float:
        assert self._pulse_engine is not None
        started, num_tokens = self.clock(), 0
        while self.clock() - started < seconds:
            num_tokens += self._round(self._pulse_engine)
        return num_tokens / (self.clock() - started)

    def _round(self, loaded: LoadedEngine) -> int:
        params = SamplingParams(max_tokens=PULSE_TOKENS, temperature=0.0, ignore_eos=True)
        for stream in range(PULSE_STREAMS):
            request_id = f"pulse {self._num_pulses} {stream}"
            loaded.engine.add(request_id, [(stream + place) % 97 + 1 for place in range(PULSE_PROMPT)], params)
        while loaded.engine.num_unfinished:
            for event in loaded.engine.step():
                if event.finish is not None:
                    loaded.engine.forget(event.request_id)
        self._num_pulses += 1
        return PULSE_STREAMS * (PULSE_TOKENS + PULSE_PROMPT)


def _measurement(
    loaded: LoadedEngine, crowd: Sequence[RequestRecord], alone: Summary, summary: Summary
) -> Measurement:
    """Raises `ConfigError` where nobody got an answer."""
    if alone.ttft_ms is None or alone.e2el_ms is None or summary.ttft_ms is None:
        refused = [*alone.reasons, *summary.reasons]
        raise ConfigError(f"no request was answered in time: {refused[0] if refused else 'all too slow'}")
    speculation = None if loaded.engine.speculation is None else loaded.engine.speculation.stats
    num_blocks = loaded.engine.config.num_kv_blocks
    block_bytes = loaded.kv_spec.bytes_per_block + (loaded.draft.kv_spec.bytes_per_block if loaded.draft else 0)
    cached = sum(record.num_cached_tokens or 0 for record in crowd)
    return Measurement(
        tokens_per_s=summary.output_tokens_per_s,
        requests_per_s=summary.requests_per_s,
        ttft_ms=summary.ttft_ms.p50.value,
        ttft_p95_ms=summary.ttft_ms.p95.value,
        tpot_ms=0.0 if summary.tpot_ms is None else summary.tpot_ms.p50.value,
        itl_p95_ms=0.0 if summary.itl_ms is None else summary.itl_ms.p95.value,
        single_ttft_ms=alone.ttft_ms.p50.value,
        single_tpot_ms=0.0 if alone.tpot_ms is None else alone.tpot_ms.p50.value,
        single_latency_ms=alone.e2el_ms.mean.value,
        weight_bytes=loaded.weight_bytes + (loaded.draft.parameters.num_bytes if loaded.draft else 0),
        kv_pool_bytes=num_blocks * block_bytes,
        kv_bytes_per_token=loaded.kv_spec.bytes_per_token,
        goodput_per_s=summary.goodput_per_s,
        good_share=None if summary.goodput_share is None else summary.goodput_share.value,
        prefix_hit_rate=cached / max(1, sum(record.prompt_len for record in crowd)),
        acceptance=_acceptance(speculation),
        num_preemptions=loaded.engine.stats.num_preemptions,
        num_failed=summary.num_errors + summary.num_refused,
    )


def _acceptance(stats: SpeculationStats | None) -> float | None:
    if stats is None:
        return None
    return stats.num_accepted_tokens / stats.num_draft_tokens if stats.num_draft_tokens else 0.0
