"""Engines for candidates: weights are loaded once for all that share them, caches and schedulers are always new."""

from __future__ import annotations

import gc
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace

from vivace.core.config import EngineConfig
from vivace.engine.backend import free_memory_bytes, gpu_backend, make_backend
from vivace.engine.loader import LoadedEngine, load_again, load_engine
from vivace.ops.backend import Backend
from vivace.optimize.candidate import Candidate

SHARE_OF_MEMORY = 0.5  # of what is free: weights that are not needed now may take so much


class EngineShelf:
    """`num_kv_blocks` says how large a candidate's pool is. `loading_s`: seconds that loading took so far."""

    def __init__(
        self,
        base: EngineConfig,
        num_kv_blocks: Callable[[Candidate], int],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._base = base
        self._num_kv_blocks = num_kv_blocks
        self._clock = clock
        self._weights: OrderedDict[str, LoadedEngine] = OrderedDict()
        self._backends: dict[tuple[str, int | None], Backend] = {}
        self._seconds_a_byte = 0.0  # of the slowest load so far
        self.loading_s = 0.0

    @property
    def on_gpu(self) -> bool:
        """Whether its engines run on one."""
        return gpu_backend(self._base) is not None

    def config(self, candidate: Candidate) -> EngineConfig:
        """All that `vivace serve` needs to run it as it is measured."""
        return candidate.engine_config(self._base, self._num_kv_blocks(candidate))

    def engine(self, candidate: Candidate) -> LoadedEngine:
        """An empty engine. Raises `ConfigError` where the candidate cannot run."""
        return load_again(self._loaded(candidate), self.config(candidate))

    def expected_loading_s(self, candidate: Candidate, weight_bytes: int) -> float:
        """Nothing where its weights are at hand; else as long a byte as the slowest load so far."""
        return 0.0 if candidate.quantization in self._weights else self._seconds_a_byte * weight_bytes

    def _loaded(self, candidate: Candidate) -> LoadedEngine:
        key = candidate.quantization
        if key in self._weights:
            self._weights.move_to_end(key)
            return self._with_threads(self._weights[key], candidate)
        self._make_room()
        plain = replace(
            self.config(candidate), speculative_config=None, num_kv_blocks=1, kv_cache_dtype="auto", max_model_len=1
        )
        started = self._clock()
        loaded = self._weights[key] = load_engine(plain)
        took_s = self._clock() - started
        self.loading_s += took_s
        self._seconds_a_byte = max(self._seconds_a_byte, took_s / max(1, loaded.weight_bytes))
        self._backends = {one: backend for one, backend in self._backends.items() if one[0] in self._weights}
        self._backends[key, candidate.num_threads] = loaded.backend
        return loaded

    def _with_threads(self, loaded: LoadedEngine, candidate: Candidate) -> LoadedEngine:
        """The same packed weights on a device with as many threads as the candidate's."""
        key = (candidate.quantization, candidate.num_threads)
        if key not in self._backends:
            self._backends[key] = make_backend(self.config(candidate))[0]
        return replace(loaded, backend=self._backends[key])

    def _make_room(self) -> None:
        """Put away what was not used for longest while the shelf holds too much."""
        while self._weights:
            held = sum(one.weight_bytes for one in self._weights.values())
            largest = max(one.weight_bytes for one in self._weights.values())
            if held + largest <= SHARE_OF_MEMORY * (free_memory_bytes(self._base) + held):
                return
            self._weights.popitem(last=False)
            gc.collect()  # what an engine's parts know of each other would keep its memory, and what is free is asked
