"""What must be in memory: weights, keys and values, activations, a draft model; and how much traffic then fits."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from vivace.core.config import KVDtype
from vivace.models.spec import ModelSpec
from vivace.ops.backend import KVSpec
from vivace.plan.deployment import Deployment
from vivace.plan.machine import Machine
from vivace.plan.weights import StoredEncodings, weight_plan

FLOAT_BYTES = 4


@dataclass(frozen=True, slots=True)
class MemoryNeed:
    """Bytes. `max_context`: of one sequence alone, at most the model's own window; `max_sequences`: of the traffic's
    length at once. `fits`: one request of the traffic can be served."""

    weights_bytes: int
    draft_bytes: int
    activation_bytes: int
    runtime_bytes: int
    kv_bytes_per_token: int
    kv_pool_bytes: int
    usable_bytes: int
    max_context: int
    max_sequences: int
    fits: bool

    def num_kv_blocks(self, block_size: int) -> int:
        """Blocks of the pool."""
        return self.kv_pool_bytes // (self.kv_bytes_per_token * block_size)

    @property
    def fixed_bytes(self) -> int:
        """Of everything but keys and values."""
        return self.weights_bytes + self.draft_bytes + self.activation_bytes + self.runtime_bytes


@lru_cache(maxsize=512)
def kv_spec(spec: ModelSpec, deployment: Deployment) -> KVSpec:
    """The cache as the engine makes it; "auto" is bf16, and f32 beside f32 weights."""
    dtype: KVDtype
    if deployment.kv_cache_dtype == "auto":
        dtype = "f32" if deployment.quantization == "f32" else "bf16"
    else:
        dtype = deployment.kv_cache_dtype
    return KVSpec(spec.num_layers, spec.num_kv_heads, spec.head_dim, deployment.block_size, dtype)


def activation_bytes(spec: ModelSpec, deployment: Deployment) -> int:
    """Float32 rows that are alive at once in the widest moment of a layer, for the largest step, and logits of the
    sequences that sample. The arena of backends/cpu/placement.py comes to about that."""
    D, F = spec.hidden_size, spec.intermediate_size
    attention = 2 * D + 2 * spec.query_size + 2 * spec.kv_size
    feed_forward = 2 * D + 3 * F
    rows = deployment.max_num_batched_tokens * max(attention, feed_forward)
    sampled = deployment.most_running * deployment.rows_a_sequence
    return FLOAT_BYTES * (rows + sampled * (spec.vocab_size + 2 * D))


@lru_cache(maxsize=4096)
def memory_need(
    spec: ModelSpec,
    machine: Machine,
    deployment: Deployment,
    request_len: int,
    stored: StoredEncodings | None = None,
) -> MemoryNeed:
    """`request_len` tokens, prompt and answer, are what one sequence of the traffic takes."""
    weights = weight_plan(spec, deployment.quantization, machine.kind, stored).num_bytes
    draft, token_bytes = _draft(deployment, machine)
    kv = kv_spec(spec, deployment)
    block_bytes = kv.bytes_per_block + token_bytes * kv.block_size
    activations = activation_bytes(spec, deployment)
    usable = int(machine.memory_bytes * machine.usable_memory)
    room = max(0, usable - weights - draft - activations - machine.runtime_bytes)
    if deployment.kv_cache_memory_bytes is not None:
        room = min(room, deployment.kv_cache_memory_bytes)
    if deployment.num_kv_blocks is not None:
        room = min(room, deployment.num_kv_blocks * block_bytes)
    blocks = (room - kv.recent_bytes_per_block) // block_bytes
    blocks_a_sequence = -(-request_len // kv.block_size)
    recent_share = kv.recent_bytes_per_block / block_bytes
    sequences = int(blocks / (blocks_a_sequence + recent_share)) if blocks > 0 else 0
    return MemoryNeed(
        weights_bytes=weights,
        draft_bytes=draft,
        activation_bytes=activations,
        runtime_bytes=machine.runtime_bytes,
        kv_bytes_per_token=kv.bytes_per_token + token_bytes,
        kv_pool_bytes=max(0, room),
        usable_bytes=usable,
        max_context=min(spec.max_position_embeddings, max(0, blocks) * kv.block_size),
        max_sequences=sequences,
        fits=sequences >= 1 and request_len <= spec.max_position_embeddings,
    )


def _draft(deployment: Deployment, machine: Machine) -> tuple[int, int]:
    """Bytes of the draft's weights, and of a token in its cache."""
    plan = deployment.speculation
    if plan is None or plan.draft is None:
        return 0, 0
    weights = weight_plan(plan.draft, plan.draft_quantization, machine.kind).num_bytes
    kv = KVSpec(plan.draft.num_layers, plan.draft.num_kv_heads, plan.draft.head_dim, deployment.block_size, "bf16")
    return weights, kv.bytes_per_token
