"""The laboratory with the engine in it: candidates run in this process, on the code that serves."""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

from vivace.bench.latency import Latency
from vivace.bench.records import RequestRecord
from vivace.bench.slo import SLO
from vivace.core.errors import ConfigError
from vivace.engine.loader import LoadedEngine
from vivace.optimize.baseline import Baseline
from vivace.optimize.candidate import Candidate
from vivace.optimize.engine_shelf import EngineShelf
from vivace.optimize.fusion import Fusion, measure_fusion
from vivace.optimize.heat import PULSE_EVERY_S, PULSE_S, Play, run_heat
from vivace.optimize.judge import Judge
from vivace.optimize.knee import BISECTIONS, Probe, RateRun, find_knee
from vivace.optimize.laboratory import Outcome
from vivace.optimize.measurement import Forecast, Interaction, Measurement, Quality
from vivace.optimize.run_figures import RunFigures, run_figures
from vivace.optimize.traffic_run import TrafficRun
from vivace.optimize.whole_answer import ENOUGH_TOKENS, whole_answers
from vivace.optimize.workload import Workload
from vivace.speculate.speculation import SpeculationStats

LONG_PULSE_S = 0.15
ALONE_PART, CROWD_PART = 0.15, 0.35  # of a measurement, where a sweep of rates follows; else the crowd has the rest
ONE_BY_ONE = 1 / 6  # of the limit: who takes one request after the other has the same rate after fewer
ONE_USER = 1 / 3  # of the limit: for one user of those who take several
QUICK_WARM_UP_S = 0.3  # a longer one is done once for the same weights: pages and code are warm, each step takes long
PULSES_SHARE = 1 / (1 - PULSE_S / (PULSE_S + PULSE_EVERY_S))  # of a run: the baseline in between

Found = TypeVar("Found")
OpenRun = Generator[float, None, list[RequestRecord]]  # yields the share that is done


@dataclass(slots=True)
class EngineLaboratory:
    """`judge` is None for random weights. A crowd's run ends after `limit_s` seconds and one answer, one user's
    after a part of it and a few tokens. `room_bytes` bounds what runs together: weights and pools as forecast."""

    shelf: EngineShelf
    workload: Workload
    baseline: Candidate
    forecaster: Callable[[Candidate], Forecast]
    judge: Judge | None = None
    slo: SLO | None = None
    offered_per_s: float | None = None  # what rates are asked for instead of the greatest that keeps the SLO
    limit_s: float = math.inf
    room_bytes: float = math.inf
    _pulse: Baseline | None = None
    _warm_up_s: dict[tuple[str, int | None], float] = field(default_factory=dict)  # of weights on so many threads

    def clock(self) -> float:
        return time.monotonic()

    def measure(self, candidates: Sequence[Candidate], share: float, sweep: bool) -> list[Outcome]:
        return [outcome for group in self._groups(candidates) for outcome in self._heat(group, share, sweep)]

    def expected_s(self, candidate: Candidate, sweep: bool) -> float:
        cast = self.forecaster(candidate)
        alone_limit_s = self._alone_limit_s(candidate)
        answer_s = cast.single_latency_ms / 1e3
        alone_s = len(self.workload.alone.requests) * answer_s
        wanted_s = self.workload.num_requests * self.workload.output_len / cast.tokens_per_s
        crowd_s = min(wanted_s, max(self.limit_s, answer_s))
        if candidate.max_num_seqs == 1 and alone_s > alone_limit_s:
            crowd_s = 0.0
        sweep_s = (BISECTIONS + 1) * crowd_s if sweep else 0.0
        if sweep and self.offered_per_s is not None:
            pauses_s = self.workload.num_requests / self.offered_per_s
            sweep_s = min(self.workload.num_requests * answer_s, pauses_s + self.limit_s)
        return (min(alone_s, alone_limit_s) + crowd_s + sweep_s) * PULSES_SHARE

    def expected_loading_s(self, candidates: Sequence[Candidate]) -> float:
        needed = {one.quantization: one for one in candidates}.values()
        return sum(self.shelf.expected_loading_s(one, self.forecaster(one).weight_bytes) for one in needed)

    @property
    def loading_s(self) -> float:
        return self.shelf.loading_s

    def pulse(self) -> float:
        return self._beat(LONG_PULSE_S)

    def quality(self, candidate: Candidate) -> Quality | None:
        return None if self.judge is None else self.judge.quality(candidate)

    def interaction(self, candidate: Candidate) -> Interaction:
        return Interaction(0, 0) if self.judge is None else self.judge.interaction(candidate)

    def fusion(self, candidate: Candidate) -> Fusion:
        workload = self.workload
        depth = int(workload.prompt_len + workload.output_len / 2)
        streams = min(candidate.max_num_seqs, workload.users)
        if self.shelf.on_gpu:
            return Fusion(streams, depth, ())  # NumPy's passes would run on the processor
        plain = self.shelf.engine(replace(candidate, speculation=None, kv_cache_dtype="bf16"))
        return measure_fusion(plain, streams, depth, candidate.num_threads or 1)

    def forecast(self, candidate: Candidate) -> Forecast:
        return self.forecaster(candidate)

    def _beat(self, seconds: float) -> float:
        if self._pulse is None:
            self._pulse = Baseline(self.shelf.engine(replace(self.baseline, enable_prefix_caching=False)).engine)
        return self._pulse.beat(seconds)

    def _groups(self, candidates: Sequence[Candidate]) -> Iterator[list[Candidate]]:
        """As many together as memory takes."""
        group: list[Candidate] = []
        held = 0.0
        for candidate in candidates:
            cast = self.forecaster(candidate)
            is_held = any(one.quantization == candidate.quantization for one in group)
            needed = cast.memory_bytes - cast.weight_bytes * is_held
            if group and held + needed > self.room_bytes:
                yield group
                group, held, needed = [], 0.0, cast.memory_bytes
            group.append(candidate)
            held += needed
        yield group

    def _heat(self, candidates: Sequence[Candidate], share: float, sweep: bool) -> list[Outcome]:
        workload = self.workload.part(share)
        plays, failures = {}, {}
        for candidate in candidates:
            try:
                plays[candidate] = self._play(candidate, self._warm(candidate), workload, sweep)
            except ConfigError as error:
                failures[candidate] = Outcome(None, failure=str(error))
        self._beat(0.0)  # the baseline's own warm-up, where it has not been
        gc.collect()
        heat = run_heat(list(plays.values()), self._beat)
        outcomes = dict(failures)
        for candidate, result in zip(plays, heat.results, strict=True):
            if isinstance(result, str):
                outcomes[candidate] = Outcome(None, heat.pulses, result)
            else:
                outcomes[candidate] = Outcome(result, heat.pulses)
        return [outcomes[candidate] for candidate in candidates]

    def _warm(self, candidate: Candidate) -> LoadedEngine:
        loaded = self.shelf.engine(candidate)
        key = (candidate.quantization, candidate.num_threads)
        if self._warm_up_s.get(key, 0.0) <= QUICK_WARM_UP_S:
            run = TrafficRun(loaded.engine, self.workload.reader, self.workload.warm_up())
            run.run()
            self._warm_up_s[key] = run.seconds
        return loaded

    def _alone_limit_s(self, candidate: Candidate) -> float:
        return self.limit_s * (ONE_BY_ONE if candidate.max_num_seqs == 1 else ONE_USER)

    def _play(self, candidate: Candidate, loaded: LoadedEngine, workload: Workload, sweep: bool) -> Play:
        """One user alone first, so that what the crowd leaves in the prefix cache helps nobody."""
        limit_s = self._alone_limit_s(candidate)
        crowd_part = CROWD_PART if sweep else 1 - ALONE_PART
        alone = TrafficRun(
            loaded.engine, workload.reader, workload.alone, limit_s=limit_s, enough_tokens=ENOUGH_TOKENS
        )
        for share in alone.steps():
            yield ALONE_PART * share
        # One after another and slower than there is time for: the crowd would have the rate of the one user.
        is_known = candidate.max_num_seqs == 1 and alone.seconds > limit_s
        traffic = replace(workload.crowd, requests=()) if is_known else workload.crowd
        limit_s = self.limit_s if candidate.max_num_seqs > 1 else limit_s
        crowd = TrafficRun(loaded.engine, workload.reader, traffic, limit_s=limit_s)
        for share in crowd.steps():
            yield ALONE_PART + crowd_part * share
        answers, is_extended = whole_answers(alone.records, workload.alone)
        single = run_figures(answers, self.slo)
        everybody = single if is_known else run_figures(crowd.records, self.slo)
        if single is None or everybody is None:
            reasons = [one.error for one in (*alone.records, *crowd.records) if one.error]
            raise ConfigError(f"no request was answered in time: {reasons[0] if reasons else 'all too slow'}")
        measured = _measurement(loaded, single, everybody, alone.seconds + crowd.seconds)
        measured = replace(measured, is_extended=is_extended)
        if not sweep:
            return measured
        done = ALONE_PART + crowd_part
        if self.offered_per_s is not None:
            offered = yield from _rest(done, self._at_rate(candidate, workload, self.offered_per_s, limit_s))
            return _offered(measured, offered, self.offered_per_s, self.slo)
        knee = yield from _rest(done, self._knee(candidate, workload, everybody.requests_per_s, limit_s))
        return replace(
            measured, goodput_per_s=knee.good_per_s, good_share=knee.good_share, good_rate_per_s=knee.rate_per_s
        )

    def _knee(self, candidate: Candidate, workload: Workload, closed_rate: float, limit_s: float) -> RateRun:
        """Every rate finds an empty cache."""

        def run(rate_per_s: float) -> RateRun:
            records = yield from self._at_rate(candidate, workload, rate_per_s, limit_s)
            found = run_figures(records, self.slo)
            if found is None or found.good_share is None or found.good_per_s is None:
                return Probe(rate_per_s, 0.0, 0.0)
            return Probe(rate_per_s, found.good_share, found.good_per_s)

        return find_knee(run, closed_rate)

    def _at_rate(self, candidate: Candidate, workload: Workload, rate_per_s: float, limit_s: float) -> OpenRun:
        traffic = workload.open(rate_per_s)
        # The clock leaps over pauses, so the limit on busy time is one on time where nothing waits.
        limit = limit_s + (traffic.requests[-1].arrival_s or 0.0)
        played = TrafficRun(self._warm(candidate).engine, workload.reader, traffic, limit_s=limit)
        yield from played.steps()
        return played.records


def _rest(done: float, steps: Generator[float, None, Found]) -> Generator[float, None, Found]:
    """The same steps as the part of a whole that is left."""
    while True:
        try:
            share = next(steps)
        except StopIteration as end:
            found: Found = end.value
            return found
        yield done + (1 - done) * share


def _offered(
    measured: Measurement, records: Sequence[RequestRecord], rate_per_s: float, slo: SLO | None
) -> Measurement:
    """Who was cut off counts with the time until then, and has kept no objectives: the slow must not gain by it."""
    found = run_figures(records, slo)
    if found is None:
        raise ConfigError(f"no request was answered in time at {rate_per_s:g} requests a second")
    good = None if slo is None else sum(Latency.of(one).keeps(slo) for one in records if one.status == "ok")
    share = None if good is None else good / len(records)
    return replace(
        measured,
        goodput_per_s=None if share is None else share * rate_per_s,
        good_share=share,
        good_rate_per_s=None if share is None else rate_per_s,
        offered_per_s=rate_per_s,
        offered_latency_ms=1e3 * sum(one.ended_s - one.intended_s for one in records) / len(records),
        offered_ttft_p95_ms=found.ttft_p95_ms,
        num_failed=measured.num_failed + found.num_failed,
    )


def _measurement(loaded: LoadedEngine, single: RunFigures, everybody: RunFigures, seconds: float) -> Measurement:
    speculation = None if loaded.engine.speculation is None else loaded.engine.speculation.stats
    num_blocks = loaded.engine.config.num_kv_blocks
    block_bytes = loaded.kv_spec.bytes_per_block + (loaded.draft.kv_spec.bytes_per_block if loaded.draft else 0)
    return Measurement(
        tokens_per_s=everybody.tokens_per_s,
        requests_per_s=everybody.requests_per_s,
        ttft_ms=everybody.ttft_ms,
        ttft_p95_ms=everybody.ttft_p95_ms,
        tpot_ms=everybody.tpot_ms,
        itl_p95_ms=everybody.itl_p95_ms,
        single_ttft_ms=single.ttft_ms,
        single_tpot_ms=single.tpot_ms,
        single_latency_ms=single.e2el_mean_ms,
        weight_bytes=loaded.weight_bytes + (loaded.draft.parameters.num_bytes if loaded.draft else 0),
        kv_pool_bytes=num_blocks * block_bytes,
        kv_bytes_per_token=loaded.kv_spec.bytes_per_token,
        goodput_per_s=everybody.good_per_s,
        good_share=everybody.good_share,
        prefix_hit_rate=everybody.prefix_hit_rate,
        acceptance=_acceptance(speculation),
        num_preemptions=loaded.engine.stats.num_preemptions,
        num_failed=single.num_failed + everybody.num_failed,
        seconds=seconds,
    )


def _acceptance(stats: SpeculationStats | None) -> float | None:
    if stats is None:
        return None
    return stats.num_accepted_tokens / stats.num_draft_tokens if stats.num_draft_tokens else 0.0
