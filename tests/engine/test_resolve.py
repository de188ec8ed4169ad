"""Every "auto" becomes a value with a reason, and what cannot be met is refused with its numbers."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from vivace.core.config import EngineConfig, KVCacheDtype
from vivace.core.errors import ConfigError
from vivace.engine.resolve import resolve
from vivace.models.presets import preset_spec
from vivace.ops.backend import KVSpec

GIB = 2**30
SPEC = preset_spec("llama-3.2-1b")
TOKEN_BYTES = 2 * 16 * 8 * 64 * 2  # K and V, 16 layers, 8 heads of 64, two bytes


def test_a_pool_for_all_sequences_when_it_fits() -> None:
    config = EngineConfig(max_num_seqs=4, max_model_len=1024)
    resolved = resolve(config, SPEC, weights_are_f32=False, available_bytes=64 * GIB)
    assert (resolved.num_kv_blocks, resolved.kv_cache_dtype) == (4 * 64, "bf16")
    assert {choice.name for choice in resolved.choices} >= {"kv_cache_dtype", "max_model_len", "num_kv_blocks"}
    assert all(choice.reason for choice in resolved.choices)


def test_a_small_machine_lowers_the_pool_and_then_the_context() -> None:
    resolved = resolve(EngineConfig(), SPEC, weights_are_f32=False, available_bytes=GIB)
    assert resolved.num_kv_blocks * 16 * TOKEN_BYTES <= 0.4 * GIB
    assert resolved.max_model_len == resolved.num_kv_blocks * 16 < SPEC.max_position_embeddings
    lowered = [choice for choice in resolved.choices if choice.name == "max_model_len"]
    assert lowered[-1].value == resolved.max_model_len


def test_exact_bytes_and_blocks_are_kept() -> None:
    by_bytes = EngineConfig(kv_cache_memory_bytes=100 * 16 * TOKEN_BYTES + 1, max_model_len=512)
    assert resolve(by_bytes, SPEC, weights_are_f32=False, available_bytes=GIB).num_kv_blocks == 100
    by_blocks = EngineConfig(num_kv_blocks=33, max_model_len=512)
    assert resolve(by_blocks, SPEC, weights_are_f32=False, available_bytes=GIB).num_kv_blocks == 33


def test_f32_weights_keep_an_f32_cache() -> None:
    config = EngineConfig(max_model_len=64)
    assert resolve(config, SPEC, weights_are_f32=True, available_bytes=GIB).kv_cache_dtype == "f32"


def test_without_chunks_a_whole_prompt_fits_a_step() -> None:
    config = EngineConfig(max_model_len=4096, max_num_seqs=1, enable_chunked_prefill=False)
    assert resolve(config, SPEC, weights_are_f32=False, available_bytes=64 * GIB).max_num_batched_tokens == 4096


def test_what_cannot_be_met_is_refused() -> None:
    with pytest.raises(ConfigError, match="exceeds the model's context window of 131072"):
        resolve(EngineConfig(max_model_len=10**6), SPEC, weights_are_f32=False, available_bytes=GIB)
    with pytest.raises(ConfigError, match="holds no block"):
        resolve(EngineConfig(kv_cache_memory_bytes=10), SPEC, weights_are_f32=False, available_bytes=GIB)
    with pytest.raises(ConfigError, match="no room for one KV block"):
        resolve(EngineConfig(), SPEC, weights_are_f32=False, available_bytes=1000)
    with pytest.raises(ConfigError, match="must be a positive integer"):
        EngineConfig(max_num_seqs=0)
    with pytest.raises(ConfigError, match="kv_cache_dtype must be one of"):
        EngineConfig(kv_cache_dtype="int3")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gpu_memory_utilization": "0.9"}, "gpu_memory_utilization must be a number, not '0.9'"),
        ({"static_batch_timeout_ms": "50"}, "static_batch_timeout_ms must be a number, not '50'"),
        ({"static_batch_timeout_ms": float("inf")}, "static_batch_timeout_ms must be 0 or more, not inf"),
        ({"enable_prefix_caching": "no"}, "enable_prefix_caching must be true or false, not 'no'"),
        ({"seed": 1.5}, r"seed must be an integer, not 1\.5"),
        ({"kv_cache_dtype": ["bf16"]}, "kv_cache_dtype must be one of"),
        ({"max_num_seqs": True}, "max_num_seqs must be a positive integer, not True"),
        ({"model": 7}, "model must be a string, not 7"),
    ],
)
def test_options_of_another_type_are_refused_by_name(options: dict[str, Any], message: str) -> None:
    """Python's callers give them too, and no file's reader has looked at those."""
    with pytest.raises(ConfigError, match=message):
        EngineConfig.from_options(options)


def test_a_path_may_be_one_of_pathlibs() -> None:
    assert EngineConfig.from_options({"model": Path("a/b"), "tokenizer": Path("c")}) == EngineConfig(
        model="a/b", tokenizer="c"
    )


def test_steps_are_larger_on_a_gpu() -> None:
    def tokens(on_gpu: bool, **options: Any) -> int:
        config = EngineConfig(**{"max_model_len": 4096, **options})
        resolved = resolve(config, SPEC, weights_are_f32=False, available_bytes=64 * GIB, on_gpu=on_gpu)
        (choice,) = (one for one in resolved.choices if one.name == "max_num_batched_tokens")
        assert choice.value == resolved.max_num_batched_tokens
        return resolved.max_num_batched_tokens

    assert (tokens(False), tokens(True)) == (512, 2048)
    assert (tokens(False, max_num_seqs=3000), tokens(True, max_num_seqs=3000)) == (3000, 3000)
    assert tokens(True, max_num_batched_tokens=300) == 300
    assert tokens(True, enable_chunked_prefill=False) == 4096


def test_recent_keys_of_a_whole_chunk_have_room() -> None:
    """Of as many tokens as a step takes: blocks that a prompt fills keep their keys in 16 bits beside the pool."""

    def bytes_left(tokens: int) -> int:
        config = EngineConfig(
            max_model_len=8192, max_num_batched_tokens=tokens, kv_cache_dtype="int4_k_per_channel", max_num_seqs=64
        )
        resolved = resolve(config, SPEC, weights_are_f32=False, available_bytes=GIB, on_gpu=True, kv_share=1.0)
        spec = KVSpec(SPEC.num_layers, SPEC.num_kv_heads, SPEC.head_dim, 16, "int4_k_per_channel")
        return GIB - resolved.num_kv_blocks * spec.bytes_per_block - 64 * spec.recent_bytes_per_block

    recent = KVSpec(
        SPEC.num_layers, SPEC.num_kv_heads, SPEC.head_dim, 16, "int4_k_per_channel"
    ).recent_bytes_per_block
    for tokens in (512, 2048):
        assert bytes_left(tokens) >= tokens // 16 * recent


@pytest.mark.parametrize("dtype", ["int8_per_token_head", "int4_per_token_head", "int4_k_per_channel", "fp8_e4m3"])
def test_coded_caches_fill_the_same_memory_with_more_tokens(dtype: KVCacheDtype) -> None:
    def blocks(**options: Any) -> int:
        config = EngineConfig(max_model_len=512, max_num_seqs=8, **options)
        return resolve(config, SPEC, weights_are_f32=False, available_bytes=GIB).num_kv_blocks

    coded = blocks(kv_cache_memory_bytes=GIB, kv_cache_dtype=dtype)
    spec = KVSpec(16, 8, 64, 16, "bf16" if dtype == "auto" else dtype)
    assert coded * spec.bytes_per_block + 40 * spec.recent_bytes_per_block <= GIB
    assert (coded + 1) * spec.bytes_per_block + 40 * spec.recent_bytes_per_block > GIB
    assert coded > 1.8 * blocks(kv_cache_memory_bytes=GIB, kv_cache_dtype="bf16")
    few = 3 * (spec.bytes_per_block + spec.recent_bytes_per_block)
    assert blocks(kv_cache_memory_bytes=few, kv_cache_dtype=dtype) == 3
    with pytest.raises(ConfigError, match="multiple of 16, not 8"):
        blocks(kv_cache_dtype=dtype, block_size=8)
    wide = dataclasses.replace(SPEC, head_dim=513)
    with pytest.raises(ConfigError, match="at most 512 dimensions"):
        resolve(EngineConfig(kv_cache_dtype=dtype), wide, weights_are_f32=False, available_bytes=GIB)
