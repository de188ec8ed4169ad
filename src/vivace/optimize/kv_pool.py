"""How many KV blocks a candidate gets: what the workload can fill, within the memory there is."""

from __future__ import annotations

from dataclasses import dataclass

from vivace.core.config import EngineConfig
from vivace.engine.backend import free_memory_bytes
from vivace.models.spec import ModelSpec
from vivace.ops.backend import KVSpec
from vivace.optimize.candidate import Candidate
from vivace.optimize.workload import Workload

MEMORY_SHARE = 0.4  # of what was free at the start


@dataclass(frozen=True, slots=True)
class KVPool:
    """`room_bytes` is the most that a pool may take."""

    workload: Workload
    spec: ModelSpec
    room_bytes: int

    @classmethod
    def of(cls, workload: Workload, spec: ModelSpec, config: EngineConfig | None = None) -> KVPool:
        """`config` says where the cache lies: in the machine's memory or a GPU's."""
        return cls(workload, spec, int(MEMORY_SHARE * free_memory_bytes(config or EngineConfig(device="cpu"))))

    def num_blocks(self, candidate: Candidate) -> int:
        """Room for every sequence that may run at the workload's longest, as much again for prefixes that are kept,
        and one whole context, which there always is."""
        size, whole = candidate.block_size, self.workload.reader.max_model_len
        running = min(candidate.max_num_seqs, self.workload.users) * self.workload.longest_tokens
        wanted = running * (2 if candidate.enable_prefix_caching else 1) + whole
        kv = KVSpec(self.spec.num_layers, self.spec.num_kv_heads, self.spec.head_dim, size, candidate.kv_cache_dtype)
        most = max(self.room_bytes // kv.bytes_per_block, -(-whole // size))
        return min(-(-wanted // size), most) + 1
