"""The steps whose memory is measured run, with everything that sampling may be asked for; measuring needs a GPU."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from recorded_driver import RecordedDriver

from vivace.backends.cuda import backend as backend_module
from vivace.backends.cuda import largest_step
from vivace.backends.cuda.backend import CudaBackend
from vivace.backends.cuda.executable import CudaExecutable
from vivace.backends.cuda.graph_buckets import GraphOptions
from vivace.backends.cuda.kv_cache import CudaKVCache
from vivace.backends.cuda.largest_step import largest_steps, mixed_step, run_steps
from vivace.core.config import EngineConfig
from vivace.core.errors import ConfigError
from vivace.core.sampling import SamplingParams
from vivace.engine.device_memory import room_for_cache
from vivace.engine.llm import LLM
from vivace.engine.loader import load_engine
from vivace.models.decoder import build_decoder
from vivace.ops.backend import KVSpec, StepLimits


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_every_sequence_has_a_row_and_the_last_one_the_rest() -> None:
    step = mixed_step(3, 10, 20, 16)
    assert step.query_starts_B1.tolist() == [0, 1, 2, 10]
    assert step.context_lens_B.tolist() == [20, 20, 20]
    assert step.positions_T.tolist() == [19, 19, *range(12, 20)]
    assert step.sampled_rows_S.tolist() == [0, 1, 9]
    assert step.slots_T.max() < 16
    assert step.block_tables_BX.shape == (3, 2)


def test_guesses_are_sampled_rows_as_well() -> None:
    prompt, decode = largest_steps(StepLimits(max_tokens=40, max_sampled=15, max_sequences=5), 100, 16)
    assert prompt.sampled_rows_S.tolist() == list(range(25, 40))
    assert len(prompt.context_lens_B) == len(decode.token_ids_T) == 5
    few, _ = largest_steps(StepLimits(max_tokens=12, max_sampled=15, max_sequences=5), 100, 16)
    assert few.sampled_rows_S.tolist() == list(range(12))


@pytest.mark.parametrize("kv_cache_dtype", ["bf16", "int4_k_per_channel"])
def test_the_largest_steps_run(kv_cache_dtype: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = load_engine(EngineConfig(backend="cuda", device="cpu", num_kv_blocks=8, quantization="f32"))
    backend, spec = loaded.backend, loaded.spec
    assert isinstance(backend, CudaBackend)
    limits = StepLimits(max_tokens=40, max_sampled=5)
    kv_spec = KVSpec(spec.num_layers, spec.num_kv_heads, spec.head_dim, 16, kv_cache_dtype)
    program = build_decoder(spec, loaded.parameters, 100)
    executable = CudaExecutable(program, CudaKVCache(kv_spec, 1, torch.device("cpu")), limits, backend.kernels)
    sizes: list[int] = []
    run = executable.run
    monkeypatch.setattr(executable, "run", lambda step: sizes.append(len(step.token_ids_T)) or run(step))
    run_steps(executable, backend._sampler, largest_steps(limits, 100, 16))
    assert sizes == [40, 5]
    assert backend.step_bytes(program, kv_spec, limits, 100) == 0


def test_the_pool_gets_what_steps_leave(monkeypatch: pytest.MonkeyPatch) -> None:
    config = EngineConfig(backend="cuda", device="cpu", quantization="f32", num_kv_blocks=8)
    loaded = load_engine(config)
    backend = loaded.backend
    monkeypatch.setattr(backend, "free_bytes", lambda _: 5 << 30)
    asked: list[tuple[StepLimits, int]] = []
    monkeypatch.setattr(backend, "step_bytes", lambda *given: asked.append(given[2:]) or 3 << 29)

    def room(**changes: Any) -> Any:
        changed = EngineConfig(backend="cuda", device="cpu", **changes)
        return room_for_cache(changed, loaded.spec, loaded.parameters, backend)

    assert room(num_kv_blocks=8) == (5 << 30, ())
    assert not asked
    num_bytes, (choice,) = room(max_num_seqs=33, max_model_len=64)
    assert num_bytes == 7 << 29
    assert (choice.name, choice.value) == ("step_memory", "1.50 GiB")
    assert asked == [(StepLimits(2048, 33, 33), 64, None)]
    monkeypatch.setattr(backend, "free_bytes", lambda _: 1 << 30)
    with pytest.raises(ConfigError, match=r"leaves 1\.00 GiB beside the weights, and steps of 2048 .* take 1\.50"):
        room(max_num_seqs=33)


class WatchedDriver(RecordedDriver):
    """Steps that run take memory for good, as torch keeps it."""

    def run(self, *_: Any) -> None:
        self.free_bytes -= 1 << 20


@pytest.mark.parametrize(("at_start", "num_steps"), [(True, 1), (False, 2)])
def test_graphs_are_measured_or_estimated(at_start: bool, num_steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = load_engine(EngineConfig(backend="cuda", device="cpu", num_kv_blocks=8, quantization="f32"))
    spec, program = loaded.spec, build_decoder(loaded.spec, loaded.parameters, 100)
    backend, driver = CudaBackend("cpu", graphs=GraphOptions(at_start=at_start)), WatchedDriver()
    backend.driver = driver
    drawn: list[int] = []
    monkeypatch.setattr(
        largest_step, "draw", lambda logits, *_: drawn.append(len(logits)) or driver.run() or LateTokens()
    )
    kv_spec = KVSpec(spec.num_layers, spec.num_kv_heads, spec.head_dim, 16, "bf16")
    seen: list[tuple[int, int]] = []
    limits = StepLimits(max_tokens=40, max_sampled=3)
    num_bytes = backend.step_bytes(program, kv_spec, limits, 60, lambda done, total: seen.append((done, total)))
    num_graphs = 3 * 3  # of 4, 2 and 1 rows, over 4, 2 and 1 blocks
    assert len(drawn) == num_steps
    if at_start:
        assert num_bytes == (1 << 20) + num_graphs * driver.graph_bytes
        assert seen == [(done, num_graphs) for done in range(1, num_graphs + 1)]
    else:  # the largest ran as a graph; one more was captured
        assert driver.num_captures == 2
        assert num_bytes == (2 << 20) + driver.graph_bytes + num_graphs * driver.graph_bytes


class LateTokens:
    def read(self) -> None:
        """Nothing was drawn."""


def test_an_engine_starts_with_its_graphs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measured before the pool has a size, captured again over the pool; and the texts are those of plain steps."""
    drivers: list[RecordedDriver] = []

    def driver_of(_: object) -> RecordedDriver:
        drivers.append(RecordedDriver())
        return drivers[-1]

    options: dict[str, Any] = {
        "backend": "cuda", "device": "cpu", "quantization": "f32", "max_num_seqs": 3, "max_model_len": 64,
    }  # fmt: skip
    prompts = ["Anne was", "It is a truth", "The sea"]
    params = SamplingParams(max_tokens=12, temperature=0.8, seed=5, ignore_eos=True)
    expected = [one.outputs[0].token_ids for one in LLM(**options, num_kv_blocks=64).generate(prompts, params)]
    monkeypatch.setattr(backend_module, "driver_of", driver_of)
    monkeypatch.setattr(CudaBackend, "free_bytes", lambda *_: 1 << 28)
    seen: list[tuple[int, int]] = []
    llm = LLM(**options, load_progress=lambda done, total: seen.append((done, total)))
    assert seen[-18:] == [(done, 9) for done in range(1, 10)] * 2
    chosen = {choice.name: choice for choice in llm.loaded.choices}
    assert chosen["cuda_graphs"].value == 9
    assert chosen["step_memory"].value == "0.09 GiB"
    (driver,) = drivers
    assert driver.num_captures == 18
    num_replays = driver.num_replays
    assert [one.outputs[0].token_ids for one in llm.generate(prompts, params)] == expected
    assert driver.num_replays > num_replays
    assert driver.num_captures == 18
    eager = LLM(**options, enforce_eager=True)
    assert {choice.name: choice.value for choice in eager.loaded.choices}["cuda_graphs"] == "none"
    few = LLM(**options, cuda_graph_sizes="2")
    assert {choice.name: choice.value for choice in few.loaded.choices}["cuda_graphs"] == 3


class FrugalDriver(RecordedDriver):
    """Every operation that samples takes memory for good, a byte for each of its logits."""

    def take(self, logits: torch.Tensor) -> None:
        self.free_bytes -= logits.numel()


GUESSING = {
    "draft_model": {"method": "draft_model", "model": "embedded-draft", "num_speculative_tokens": 4},
    "medusa": {"method": "medusa", "num_speculative_tokens": 4},
    "ngram": {"method": "ngram", "num_speculative_tokens": 4},
}


@pytest.mark.parametrize("method", GUESSING)
def test_what_guesses_is_measured_too(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Graphs of a draft model, its steps and those of heads, rows of guesses: the pool gets what they leave."""
    driver = FrugalDriver()
    monkeypatch.setattr(backend_module, "driver_of", lambda _: driver)
    monkeypatch.setattr(CudaBackend, "free_bytes", lambda *_: 1 << 28)
    rows: list[int] = []

    def watched(logits: torch.Tensor, *_: object) -> LateTokens:
        rows.append(len(logits))
        driver.take(logits)
        return LateTokens()

    monkeypatch.setattr(largest_step, "draw", watched)
    options: dict[str, Any] = {
        "backend": "cuda", "device": "cpu", "quantization": "f32", "max_num_seqs": 3, "max_model_len": 64,
    }  # fmt: skip
    llm = LLM(**options, speculative_config=GUESSING[method])
    vocabulary = llm.loaded.spec.vocab_size
    num_executables, others = {"draft_model": (2, [3]), "medusa": (1, [6]), "ngram": (1, [])}[method]
    assert rows == [3 * 5, *others]  # a row of each guess; heads: two for each sequence
    assert driver.num_captures == 9 * num_executables * 2  # to be measured, then to be kept
    (measured,) = (choice for choice in llm.loaded.choices if choice.name == "step_memory")
    num_bytes = sum(rows) * vocabulary + 9 * num_executables * driver.graph_bytes
    assert measured.value == f"{num_bytes / 2**30:.2f} GiB"
    assert ("the draft model" in measured.reason) == (method == "draft_model")
    assert ("the Medusa heads" in measured.reason) == (method == "medusa")
