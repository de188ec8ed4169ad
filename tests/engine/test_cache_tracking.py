"""The cache that the loader makes watches the scheduler's own counts."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from vivace.backends.cpu.backend import CpuKVCache
from vivace.core.sampling import SamplingParams
from vivace.engine.llm import LLM


def test_a_loaded_cache_sees_which_blocks_are_used(monkeypatch: pytest.MonkeyPatch) -> None:
    watched: list[Sequence[int]] = []
    monkeypatch.setattr(CpuKVCache, "track", lambda _cache, references: watched.append(references))
    llm = LLM(kv_cache_dtype="int4_k_per_channel", max_model_len=64, max_num_seqs=2)
    (references,) = watched
    assert sum(references) == 0
    request = llm.submit([1, 2, 3], SamplingParams(max_tokens=8, ignore_eos=True))
    llm.engine.step()
    assert sum(references) == 1
    llm.engine.abort(request)
    assert sum(references) == 0
