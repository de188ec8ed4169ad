"""Engines for candidates: weights are loaded once for all that share them, caches and schedulers are always new."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace

from vivace.core.config import EngineConfig
from vivace.engine.backend import free_memory_bytes
from vivace.engine.loader import LoadedEngine, load_again, load_engine
from vivace.optimize.candidate import Candidate

SHARE_OF_MEMORY = 0.5  # of what is free: weights that are not needed now may take so much


class EngineShelf:
    """`num_kv_blocks` says how large a candidate's pool is."""

    def __init__(self, base: EngineConfig, num_kv_blocks: Callable[[Candidate], int]) -> None:
        self._base = base
        self._num_kv_blocks = num_kv_blocks
        self._weights: OrderedDict[tuple[str, int | None], LoadedEngine] = OrderedDict()

    def config(self, candidate: Candidate) -> EngineConfig:
        """All that `vivace serve` needs to run it as it is measured."""
        return candidate.engine_config(self._base, self._num_kv_blocks(candidate))

    def engine(self, candidate: Candidate) -> LoadedEngine:
        """An empty engine. Raises `ConfigError` where the candidate cannot run."""
        return load_again(self._loaded(candidate), self.config(candidate))

    def _loaded(self, candidate: Candidate) -> LoadedEngine:
        key = (candidate.quantization, candidate.num_threads)
        if key in self._weights:
            self._weights.move_to_end(key)
            return self._weights[key]
        self._make_room()
        plain = replace(
            self.config(candidate), speculative_config=None, num_kv_blocks=1, kv_cache_dtype="auto", max_model_len=1
        )
        self._weights[key] = load_engine(plain)
        return self._weights[key]

    def _make_room(self) -> None:
        """Put away what was not used for longest while the shelf holds too much."""
        while self._weights:
            held = sum(one.weight_bytes for one in self._weights.values())
            largest = max(one.weight_bytes for one in self._weights.values())
            if held + largest <= SHARE_OF_MEMORY * (free_memory_bytes(self._base) + held):
                return
            self._weights.popitem(last=False)
