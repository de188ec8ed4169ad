"""The steps whose memory is measured run, with everything that sampling may be asked for; measuring needs a GPU."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from vivace.backends.cuda.backend import CudaBackend
from vivace.backends.cuda.executable import CudaExecutable
from vivace.backends.cuda.kv_cache import CudaKVCache
from vivace.backends.cuda.largest_step import mixed_step, run_largest
from vivace.core.config import EngineConfig
from vivace.core.errors import ConfigError
from vivace.engine.device_memory import room_for_cache
from vivace.engine.loader import load_engine
from vivace.models.decoder import build_decoder
from vivace.ops.backend import KVSpec, StepLimits


def test_every_sequence_has_a_row_and_the_last_one_the_rest() -> None:
    step = mixed_step(3, 10, 20, 16)
    assert step.query_starts_B1.tolist() == [0, 1, 2, 10]
    assert step.context_lens_B.tolist() == [20, 20, 20]
    assert step.positions_T.tolist() == [19, 19, *range(12, 20)]
    assert step.sampled_rows_S.tolist() == [0, 1, 9]
    assert step.slots_T.max() < 16
    assert step.block_tables_BX.shape == (3, 2)


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
    run_largest(executable, backend._sampler, limits, 100)
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
        return room_for_cache(changed, loaded.spec, loaded.parameters, backend, names_states=False)

    assert room(num_kv_blocks=8) == (5 << 30, ())
    assert not asked
    num_bytes, (choice,) = room(max_num_seqs=33, max_model_len=64)
    assert num_bytes == 7 << 29
    assert (choice.name, choice.value) == ("step_memory", "1.50 GiB")
    assert asked == [(StepLimits(512, 33), 64)]
    monkeypatch.setattr(backend, "free_bytes", lambda _: 1 << 30)
    with pytest.raises(ConfigError, match=r"leaves 1\.00 GiB beside the weights, and steps of 512 .* take 1\.50"):
        room(max_num_seqs=33)
