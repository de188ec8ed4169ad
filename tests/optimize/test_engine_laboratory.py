"""The laboratory on the real engine: traffic in process, quality and greedy texts, and a real trap."""

from __future__ import annotations

from dataclasses import replace
from itertools import count
from pathlib import Path

import pytest

from vivace.bench.slo import SLO
from vivace.bench.traffic.request import Traffic, TrafficRequest
from vivace.core.config import EngineConfig
from vivace.core.errors import ConfigError
from vivace.core.speculation import SpeculativeConfig
from vivace.engine.llm import LLM
from vivace.evaluate.evaluation import sample_text
from vivace.optimize import traffic_run
from vivace.optimize.candidate import Candidate
from vivace.optimize.engine_laboratory import EngineLaboratory
from vivace.optimize.engine_shelf import EngineShelf
from vivace.optimize.gate import Gate, QualityBar
from vivace.optimize.judge import Judge
from vivace.optimize.knee import ABOVE
from vivace.optimize.kv_pool import KVPool
from vivace.optimize.measurement import Forecast, Measurement
from vivace.optimize.prompts import PromptReader, openings
from vivace.optimize.stopwatch import Stopwatch
from vivace.optimize.subject import read_subject
from vivace.optimize.traffic_run import TrafficRun
from vivace.optimize.whole_answer import whole_answers
from vivace.optimize.workload import Workload, check_workload, make_workload

BASE = EngineConfig(max_model_len=512, num_threads=1)
SERVED = Candidate("int8", max_num_seqs=8, num_threads=1)


@pytest.fixture(scope="module")
def reader() -> PromptReader:
    return read_subject(BASE).reader


@pytest.fixture(scope="module")
def workload(reader: PromptReader) -> Workload:
    return make_workload("chat", reader, 8, seed=5)


@pytest.fixture(scope="module")
def shelf() -> EngineShelf:
    return EngineShelf(BASE, lambda one: 2048 // one.block_size)


def laboratory(shelf: EngineShelf, workload: Workload, judge: Judge | None = None) -> EngineLaboratory:
    return EngineLaboratory(shelf, workload, SERVED, lambda _: Forecast(1.0, 1.0, 1), judge)


def test_a_run_leaves_a_record_for_every_request(shelf: EngineShelf, workload: Workload) -> None:
    run = TrafficRun(shelf.engine(SERVED).engine, workload.reader, workload.crowd)
    records = run.run()
    wanted = {request.index: request.output_len for request in workload.crowd.requests}
    assert {record.index: record.output_len for record in records} == wanted
    assert all(record.status == "ok" for record in records)
    for record in records:
        assert record.intended_s <= record.sent_s <= record.token_s[0] <= record.token_s[-1] <= record.ended_s
        assert len(record.token_s) == record.output_len


def test_a_next_turn_comes_after_the_answer_and_holds_it(shelf: EngineShelf, workload: Workload) -> None:
    run = TrafficRun(shelf.engine(SERVED).engine, workload.reader, workload.crowd)
    records = {record.index: record for record in run.run()}
    followers = [request for request in workload.crowd.requests if request.after is not None]
    assert followers, "the seed gives no second turn: choose another"
    for request in followers:
        assert request.after is not None
        assert records[request.index].sent_s >= records[request.after].ended_s
        spoken = workload.reader.with_answer(request, run.answers[request.after]).messages
        assert spoken is not None
        assert spoken[-2]["content"] == workload.reader.tokenizer.decode(run.answers[request.after])
        assert (records[request.index].num_cached_tokens or 0) > 0


def test_users_of_a_closed_loop_are_never_more_than_they_are(shelf: EngineShelf, workload: Workload) -> None:
    crowd = replace(workload.crowd, concurrency=2)
    records = TrafficRun(shelf.engine(SERVED).engine, workload.reader, crowd).run()
    for one in records:
        others = sum(other.sent_s <= one.sent_s < other.ended_s for other in records)
        assert others <= 2


def test_open_traffic_comes_in_time_and_nobody_waits_for_it(shelf: EngineShelf, reader: PromptReader) -> None:
    """A thousand seconds of pauses pass in none; each request is alone, so its latency is that of its steps."""
    requests = tuple(TrafficRequest(i, 3, 2, token_ids=(5, 6, 7 + i), arrival_s=1000.0 * i) for i in range(3))
    records = TrafficRun(shelf.engine(SERVED).engine, reader, Traffic("open", requests)).run()
    assert [record.intended_s for record in records] == [0.0, 1000.0, 2000.0]
    assert all(record.intended_s <= record.sent_s < record.ended_s < record.intended_s + 900 for record in records)


def test_a_next_turn_of_open_traffic_waits_for_its_answer(shelf: EngineShelf, workload: Workload) -> None:
    traffic = workload.open(1e4)
    assert traffic.concurrency is None
    order = {request.index: place for place, request in enumerate(traffic.requests)}
    assert all(order[one.after] < order[one.index] for one in traffic.requests if one.after is not None)
    records = {one.index: one for one in TrafficRun(shelf.engine(SERVED).engine, workload.reader, traffic).run()}
    assert len(records) == len(traffic.requests)
    for one in traffic.requests:
        if one.after is not None:
            assert one.arrival_s is not None
            ended = records[one.after].ended_s
            assert records[one.index].intended_s == max(ended, one.arrival_s)


def test_a_run_that_takes_too_long_is_cut_off_behind_an_answer(shelf: EngineShelf, workload: Workload) -> None:
    records = TrafficRun(shelf.engine(SERVED).engine, workload.reader, workload.crowd, limit_s=0.0).run()
    assert sum(record.status == "ok" for record in records) >= 1
    assert any(record.status == "cancelled" for record in records)


def test_a_refused_request_is_recorded(shelf: EngineShelf, reader: PromptReader) -> None:
    requests = (TrafficRequest(0, 1, 1, token_ids=(999_999,)), TrafficRequest(1, 1, 1, token_ids=(5,)))
    records = TrafficRun(shelf.engine(SERVED).engine, reader, Traffic("wrong", requests)).run()
    assert [record.status for record in sorted(records, key=lambda one: one.index)] == ["refused", "ok"]


def measured(bench: EngineLaboratory, *candidates: Candidate) -> list[Measurement]:
    outcomes = bench.measure(candidates, 1.0, bench.slo is not None)
    assert all(len(one.pulses) >= 2 and min(one.pulses) > 0 for one in outcomes)
    return [one.measurement for one in outcomes if one.measurement is not None]


def test_measurements_have_their_figures(shelf: EngineShelf, workload: Workload) -> None:
    bench = laboratory(shelf, workload)
    found, without = measured(bench, SERVED, replace(SERVED, enable_prefix_caching=False))
    assert found.num_failed == 0
    assert min(found.tokens_per_s, found.single_latency_ms, found.ttft_ms, found.tpot_ms) > 0
    assert found.prefix_hit_rate > 0
    assert without.prefix_hit_rate == 0
    assert found.kv_pool_bytes == 2048 // 16 * bench.shelf.engine(SERVED).kv_spec.bytes_per_block
    assert bench.pulse() > 0


def test_a_candidate_that_cannot_run_says_why(shelf: EngineShelf, workload: Workload, tmp_path: Path) -> None:
    absent = SpeculativeConfig("draft_model", model=str(tmp_path / "absent"))
    failed, ran = laboratory(shelf, workload).measure([replace(SERVED, speculation=absent), SERVED], 0.5, False)
    assert failed.measurement is None
    assert "absent" in failed.failure
    assert ran.measurement is not None


def test_what_does_not_fit_together_runs_in_two_heats(shelf: EngineShelf, workload: Workload) -> None:
    bench = laboratory(shelf, workload)
    bench.room_bytes = 2  # forecasts say 1 byte each
    outcomes = bench.measure([SERVED, replace(SERVED, block_size=32), replace(SERVED, max_num_seqs=4)], 0.5, False)
    assert all(one.measurement is not None for one in outcomes)
    assert outcomes[0].pulses == outcomes[1].pulses
    assert outcomes[1].pulses != outcomes[2].pulses


def test_goodput_is_found_by_rates(shelf: EngineShelf, workload: Workload) -> None:
    bench = laboratory(shelf, workload)
    bench.slo = SLO(e2el=60_000.0)
    (lenient,) = measured(bench, SERVED)
    assert lenient.goodput_per_s is not None
    assert lenient.good_rate_per_s == pytest.approx(ABOVE * lenient.requests_per_s), "every rate keeps it"
    bench.slo = SLO(e2el=1e-6)
    (impossible,) = measured(bench, SERVED)
    assert (impossible.goodput_per_s, impossible.good_rate_per_s, impossible.good_share) == (0.0, 0.0, 0.0)


def test_a_load_that_is_offered_is_played(shelf: EngineShelf, workload: Workload) -> None:
    bench = replace(laboratory(shelf, workload), offered_per_s=0.5, slo=SLO(e2el=60_000.0))
    (found,) = measured(bench, SERVED)
    assert (found.offered_per_s, found.goodput_per_s, found.good_share) == (0.5, 0.5, 1.0)
    assert found.offered_latency_ms is not None
    assert 0 < found.offered_latency_ms < 60_000.0
    bench.slo = None
    (outcome,) = bench.measure([SERVED], 1.0, True)
    assert outcome.measurement is not None
    assert outcome.measurement.goodput_per_s is None
    assert outcome.measurement.is_at_rates


def test_an_answer_that_takes_too_long_goes_on_at_its_pace(shelf: EngineShelf, workload: Workload) -> None:
    """As long as it was to be, and about as fast as one that was waited for."""
    bench = replace(laboratory(shelf, workload), limit_s=1e-9)
    (cut,) = measured(bench, replace(SERVED, max_num_seqs=1))
    assert cut.is_extended
    whole = TrafficRun(shelf.engine(SERVED).engine, workload.reader, workload.alone, limit_s=0.0, enough_tokens=8)
    records, is_extended = whole_answers(whole.run(), workload.alone)
    wanted = next(one.output_len for one in workload.alone.requests if one.index == records[0].index)
    assert is_extended
    assert (len(records), records[0].status, records[0].output_len) == (1, "ok", wanted)
    assert len(records[0].token_s) == wanted
    assert records[0].ended_s == records[0].token_s[-1]
    assert list(records[0].token_s) == sorted(records[0].token_s)


def test_few_requests_are_many_conversations(reader: PromptReader) -> None:
    crowd = make_workload("chat", reader, 8, seed=5).crowd
    roots = [one for one in crowd.requests if one.after is None]
    assert (len(crowd.requests), len(roots), crowd.concurrency) == (8, 4, 4)
    known = {one.index for one in crowd.requests}
    assert all(one.after in known for one in crowd.requests if one.after is not None)


def test_threads_share_packed_weights(shelf: EngineShelf) -> None:
    one, two = (shelf.engine(replace(SERVED, num_threads=count)) for count in (1, 2))
    assert one.parameters is two.parameters
    assert (one.backend.num_threads, two.backend.num_threads) == (1, 2)  # type: ignore[attr-defined]
    texts = [LLM.of(loaded).generate([[5, 6, 7, 8]])[0].outputs[0].token_ids for loaded in (one, two)]
    assert texts[0] == texts[1]


def test_serving_tricks_change_no_text(shelf: EngineShelf, workload: Workload) -> None:
    probes = [workload.reader.token_ids(request)[:64] for request in workload.crowd.requests[:4]]
    judge = Judge(shelf, Candidate("f32", "f32", num_threads=1), sample_text()[:1500], probes)
    for candidate in (SERVED, replace(SERVED, kv_cache_dtype="int8_per_token_head", block_size=32)):
        found = judge.interaction(candidate)
        assert (found.num_equal, found.num_probes) == (8, 8)
        assert found.agreement > 0.9


def test_quality_is_that_of_the_text(shelf: EngineShelf, workload: Workload) -> None:
    judge = Judge(shelf, Candidate("f32", "f32", num_threads=1), sample_text()[:1500], [])
    same = judge.quality(Candidate("f32", "f32", num_threads=1))
    eight, four = judge.quality(SERVED), judge.quality(replace(SERVED, quantization="int4"))
    assert same.kl == pytest.approx(0.0, abs=1e-9)
    assert 0 < eight.kl < four.kl < 0.1
    assert laboratory(shelf, workload).quality(SERVED) is None


def test_the_reference_is_scored_once_and_says_the_same(shelf: EngineShelf) -> None:
    reference = Candidate("f32", "f32", num_threads=1)
    remembering, forgetting = (Judge(shelf, reference, sample_text()[:1500], []) for _ in range(2))
    forgetting._reference_logits.most_bytes = 0
    for _ in range(2):
        one, other = remembering.quality(SERVED), forgetting.quality(SERVED)
        assert replace(one, seconds=0.0) == replace(other, seconds=0.0)
    assert remembering._reference_logits.num_bytes > 0
    assert forgetting._reference_logits.num_bytes == 0


def test_a_cache_that_ruins_the_text_is_refused(shared: Path) -> None:
    """int4 by token on heads of 8: 35% of perplexity lost, at the least memory of all caches."""
    config = EngineConfig(model=str(shared / "weights" / "stories260K"), num_threads=1, max_model_len=512)
    shelf = EngineShelf(config, lambda _: 64)
    text = (shared / "eval" / "tinystories_sample.txt").read_text()[:3000]
    reference = Candidate("f32", "f32", num_threads=1)
    judge = Judge(shelf, reference, text, [LLM.of(shelf.engine(reference)).tokenizer.encode("Once upon a time")])
    gate = Gate(QualityBar())
    trap, fine = (replace(reference, kv_cache_dtype=name) for name in ("int4_per_token_head", "int8_per_token_head"))
    assert gate.allows_quality(fine, judge.quality(fine))
    assert not gate.allows_quality(trap, judge.quality(trap))
    assert "KL divergence" in gate.refused[trap]
    assert not Gate(QualityBar(None, 0.01)).allows_quality(trap, judge.quality(trap))


def test_parts_of_a_traffic_keep_its_conversations(workload: Workload) -> None:
    alone = openings(workload.crowd, 3)
    assert (len(alone.requests), alone.concurrency) == (3, 1)
    known = {request.index for request in alone.requests}
    assert all(request.after is None or request.after in known for request in alone.requests)


def test_workloads_have_names(tmp_path: Path) -> None:
    check_workload("chat")
    with pytest.raises(ConfigError, match="chat"):
        check_workload("chta")
    with pytest.raises(ConfigError, match="no trace"):
        check_workload(f"trace:{tmp_path / 'absent.csv'}")


def test_a_trace_is_a_workload(reader: PromptReader, shared: Path) -> None:
    path = shared / "traces" / "AzureLLMInferenceTrace_conv.csv.gz"
    found = make_workload(f"trace:{path}", reader, 8, seed=0)
    assert found.num_requests == 8
    assert all(request.arrival_s is None for request in found.crowd.requests)


def test_random_weights_borrow_a_tokenizer() -> None:
    subject = read_subject(EngineConfig(load_format="dummy", config="llama-3.2-1b"))
    assert subject.is_random
    assert not subject.reader.is_own
    assert subject.drafts == ()
    assert subject.num_parameters > 1e9


def test_a_pool_fits_the_memory_and_one_whole_context(workload: Workload) -> None:
    spec = read_subject(BASE).spec
    wide, narrow = KVPool(workload, spec, 1 << 40), KVPool(workload, spec, 1)
    assert narrow.num_blocks(SERVED) * SERVED.block_size > BASE.max_model_len  # type: ignore[operator]
    alone = replace(SERVED, max_num_seqs=1, enable_prefix_caching=False)
    assert wide.num_blocks(alone) < wide.num_blocks(replace(SERVED, enable_prefix_caching=False))
    assert wide.num_blocks(SERVED) * 16 >= 2 * workload.users * workload.longest_tokens


def test_who_takes_one_after_another_and_too_long_is_known_by_one_answer(
    shelf: EngineShelf, workload: Workload, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A clock that ticks when it is read: nothing stands still between an answer and the end of its run."""
    ticks = count()
    monkeypatch.setattr(traffic_run, "Stopwatch", lambda: Stopwatch(lambda: 1e-3 * next(ticks)))
    bench = laboratory(shelf, workload)
    bench.limit_s = 1e-3
    naive = replace(SERVED, max_num_seqs=1, batching="static", enable_prefix_caching=False)
    (found,) = measured(bench, naive)
    assert found.requests_per_s == pytest.approx(1e3 / found.single_latency_ms, rel=0.2)
    assert found.ttft_ms == found.single_ttft_ms


def test_a_gpu_is_not_compared_with_numpy(
    shelf: EngineShelf, workload: Workload, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vivace.optimize.engine_shelf.gpu_backend", lambda _: object())
    assert laboratory(shelf, workload).fusion(SERVED).ratios == ()
