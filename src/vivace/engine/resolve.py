"""From what was asked to what will run: every "auto" is decided here, with its reason."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from vivace.core.config import Choice, EngineConfig, KVDtype, ResolvedConfig
from vivace.core.errors import ConfigError
from vivace.core.step_size import usual_tokens_a_step
from vivace.models.spec import ModelSpec
from vivace.ops.backend import KV_CODE_BITS, KV_UNIT, MAX_CODED_HEAD_DIM, KVSpec

KV_MEMORY_SHARE = 0.4  # of the memory that is free once the weights are in


@dataclass(frozen=True, slots=True)
class _BlockNeeds:
    """`bytes_per_block`: a draft model's included; `recent_bytes`: beside the pool, of each block that is being
    filled: one a sequence, and those of a prompt's chunk."""

    bytes_per_block: int
    recent_bytes: int
    num_filling: int

    def affordable(self, num_bytes: int) -> int:
        """Blocks that fit beside the 16-bit keys of those being filled."""
        num_blocks = num_bytes // (self.bytes_per_block + self.recent_bytes)
        if num_blocks <= self.num_filling:
            return num_blocks
        return (num_bytes - self.num_filling * self.recent_bytes) // self.bytes_per_block


def resolve(
    config: EngineConfig,
    spec: ModelSpec,
    *,
    weights_are_f32: bool,
    available_bytes: int,
    kv_share: float = KV_MEMORY_SHARE,
    draft_block_bytes: int = 0,
    on_gpu: bool = False,
) -> ResolvedConfig:
    """Decide every value. `available_bytes` is the memory that is free once the weights are in, `kv_share` the part
    of it for the KV cache, `draft_block_bytes` what a KV block takes in the cache of a draft model. `on_gpu`: on a
    device with memory of its own.

    Raises `ConfigError` where the request cannot be met, with the numbers.
    """
    choices: list[Choice] = []
    dtype = _kv_dtype(config, spec, weights_are_f32, choices)
    kv = KVSpec(spec.num_layers, spec.num_kv_heads, spec.head_dim, config.block_size, dtype)
    max_model_len = _max_model_len(config, spec, choices)
    num_filling = config.max_num_seqs + _tokens_a_step(config, on_gpu, max_model_len)[0] // kv.block_size
    needs = _BlockNeeds(kv.bytes_per_block + draft_block_bytes, kv.recent_bytes_per_block, num_filling)
    num_kv_blocks = _num_kv_blocks(config, needs, max_model_len, (available_bytes, kv_share), choices)
    pool_tokens = num_kv_blocks * config.block_size
    if pool_tokens < max_model_len:
        max_model_len = pool_tokens
        choices.append(Choice("max_model_len", max_model_len, "lowered: the KV pool holds no more tokens"))
    batched, reason = _tokens_a_step(config, on_gpu, max_model_len)
    choices.append(Choice("max_num_batched_tokens", batched, reason))
    return ResolvedConfig(
        max_model_len=max_model_len,
        max_num_seqs=config.max_num_seqs,
        max_num_batched_tokens=batched,
        block_size=config.block_size,
        num_kv_blocks=num_kv_blocks,
        kv_cache_dtype=dtype,
        enable_prefix_caching=config.enable_prefix_caching,
        enable_chunked_prefill=config.enable_chunked_prefill,
        batching=config.batching,
        static_batch_size=min(config.static_batch_size, config.max_num_seqs),
        static_batch_timeout_ms=config.static_batch_timeout_ms,
        seed=config.seed,
        choices=tuple(choices),
        overlap_steps=config.overlap_steps,
    )


def _kv_dtype(config: EngineConfig, spec: ModelSpec, weights_are_f32: bool, choices: list[Choice]) -> KVDtype:
    if config.kv_cache_dtype != "auto":
        if config.kv_cache_dtype in KV_CODE_BITS:
            _check_coded(config, spec)
        choices.append(Choice("kv_cache_dtype", config.kv_cache_dtype, "as asked"))
        return config.kv_cache_dtype
    dtype: Literal["f32", "bf16"] = "f32" if weights_are_f32 else "bf16"
    reason = "the weights are f32: no precision is lost" if weights_are_f32 else "half the bytes of f32 to read"
    choices.append(Choice("kv_cache_dtype", dtype, reason))
    return dtype


def _check_coded(config: EngineConfig, spec: ModelSpec) -> None:
    if config.block_size % KV_UNIT:
        raise ConfigError(
            f"kv_cache_dtype {config.kv_cache_dtype} needs a block_size that is a multiple of {KV_UNIT}, "
            f"not {config.block_size}"
        )
    if spec.head_dim > MAX_CODED_HEAD_DIM:
        raise ConfigError(
            f"kv_cache_dtype {config.kv_cache_dtype} takes heads of at most {MAX_CODED_HEAD_DIM} dimensions, "
            f"the model's have {spec.head_dim}: use bf16"
        )


def _max_model_len(config: EngineConfig, spec: ModelSpec, choices: list[Choice]) -> int:
    if config.max_model_len is None:
        choices.append(Choice("max_model_len", spec.max_position_embeddings, "the model's own context window"))
        return spec.max_position_embeddings
    if config.max_model_len > spec.max_position_embeddings:
        raise ConfigError(
            f"max_model_len {config.max_model_len} exceeds the model's context window of "
            f"{spec.max_position_embeddings} tokens"
        )
    choices.append(Choice("max_model_len", config.max_model_len, "as asked"))
    return config.max_model_len


def _num_kv_blocks(
    config: EngineConfig,
    needs: _BlockNeeds,
    max_model_len: int,
    memory: tuple[int, float],
    choices: list[Choice],
) -> int:
    """`memory`: what is free, and the share of it for the cache."""
    if config.num_kv_blocks is not None:
        choices.append(Choice("num_kv_blocks", config.num_kv_blocks, "as asked"))
        return config.num_kv_blocks
    if config.kv_cache_memory_bytes is not None:
        num_blocks = needs.affordable(config.kv_cache_memory_bytes)
        if num_blocks < 1:
            raise ConfigError(
                f"kv_cache_memory_bytes={config.kv_cache_memory_bytes} holds no block: one needs "
                f"{needs.bytes_per_block + needs.recent_bytes} bytes"
            )
        choices.append(Choice("num_kv_blocks", num_blocks, f"fills {config.kv_cache_memory_bytes} bytes"))
        return num_blocks
    available_bytes, share = memory
    wanted = config.max_num_seqs * -(-max_model_len // config.block_size)
    affordable = needs.affordable(int(available_bytes * share))
    if affordable < 1:
        raise ConfigError(f"{available_bytes} bytes of free memory leave no room for one KV block")
    if wanted <= affordable:
        choices.append(Choice("num_kv_blocks", wanted, "max_num_seqs sequences of max_model_len tokens fit"))
        return wanted
    reason = f"{share:.0%} of the {available_bytes / 2**30:.1f} GiB of free memory"
    choices.append(Choice("num_kv_blocks", affordable, reason))
    return affordable


def _tokens_a_step(config: EngineConfig, on_gpu: bool, max_model_len: int) -> tuple[int, str]:
    """And why."""
    if config.max_num_batched_tokens is not None:
        return config.max_num_batched_tokens, "as asked"
    usual = usual_tokens_a_step(on_gpu=on_gpu, max_num_seqs=config.max_num_seqs)
    if not config.enable_chunked_prefill:
        return max(usual, max_model_len), "a whole prompt must fit one step"
    if on_gpu:
        return usual, "enough rows to fill a GPU; fewer make gaps between tokens beside a prompt shorter"
    return usual, "enough rows for the arithmetic peak, a short gap"
