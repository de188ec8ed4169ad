"""What of a device's own memory is left for the KV pool: its share, without weights and without what steps take."""

from __future__ import annotations

from vivace.core.config import Choice, EngineConfig
from vivace.core.errors import ConfigError
from vivace.engine.resolve import resolve
from vivace.models.decoder import build_decoder
from vivace.models.parameters import Parameters
from vivace.models.spec import ModelSpec
from vivace.ops.backend import AsynchronousBackend, Backend, KVSpec, StepLimits, StepProgress

PLENTY = 1 << 60  # bytes: the sizes of steps do not depend on the pool's


def room_for_cache(
    config: EngineConfig,
    spec: ModelSpec,
    parameters: Parameters,
    backend: Backend,
    *,
    names_states: bool,
    progress: StepProgress | None = None,
) -> tuple[int | None, tuple[Choice, ...]]:
    """Bytes for the KV pool once the weights are in, and what was measured; None where the memory is the machine's.

    The largest step runs once, and CUDA graphs are captured, over a cache of one block. Raises
    `ConfigError` with the numbers if nothing is left.
    """
    free_bytes = backend.free_bytes(config.gpu_memory_utilization)  # measured: the weights are in
    is_sized = config.num_kv_blocks is not None or config.kv_cache_memory_bytes is not None
    if free_bytes is None or is_sized or not isinstance(backend, AsynchronousBackend):
        return free_bytes, ()
    weights_are_f32 = parameters.layers[0].q.layout == "f32"
    sizes = resolve(config, spec, weights_are_f32=weights_are_f32, available_bytes=PLENTY, on_gpu=True)
    kv_spec = KVSpec(spec.num_layers, spec.num_kv_heads, spec.head_dim, sizes.block_size, sizes.kv_cache_dtype)
    program = build_decoder(spec, parameters, sizes.max_model_len, names_states=names_states)
    limits = StepLimits(max_tokens=sizes.max_num_batched_tokens, max_sampled=sizes.max_num_seqs)
    step_bytes = backend.step_bytes(program, kv_spec, limits, sizes.max_model_len, progress)
    if step_bytes >= free_bytes:
        raise ConfigError(
            f"gpu_memory_utilization {config.gpu_memory_utilization} leaves {free_bytes / 2**30:.2f} GiB beside the "
            f"weights, and steps of {limits.max_tokens} tokens for {limits.max_sampled} sequences take "
            f"{step_bytes / 2**30:.2f}: raise it, or lower max_num_seqs, max_num_batched_tokens or max_model_len, or "
            "use --quantization int4"
        )
    reason = "measured: the largest step with its sampling, and its CUDA graphs"
    return free_bytes - step_bytes, (Choice("step_memory", f"{step_bytes / 2**30:.2f} GiB", reason),)
