"""What of a device's own memory is left for the KV pool: its share, without weights and without what steps take."""

from __future__ import annotations

from dataclasses import dataclass

from vivace.core.config import Choice, EngineConfig, ResolvedConfig
from vivace.core.errors import ConfigError
from vivace.engine.draft import LoadedDraft, draft_step
from vivace.engine.medusa import LoadedHeads, heads_step, num_heads_of
from vivace.engine.resolve import resolve
from vivace.models.decoder import build_decoder
from vivace.models.parameters import Parameters
from vivace.models.spec import ModelSpec
from vivace.ops.backend import AsynchronousBackend, Backend, KVSpec, StepLimits, StepProgress
from vivace.ops.program import Program

PLENTY = 1 << 60  # bytes: the sizes of steps do not depend on the pool's


@dataclass(frozen=True, slots=True)
class _Measured:
    """A program whose steps are measured. `name`: for the user, empty for the model itself."""

    name: str
    program: Program
    kv_spec: KVSpec
    limits: StepLimits
    max_context: int


def room_for_cache(
    config: EngineConfig,
    spec: ModelSpec,
    parameters: Parameters,
    backend: Backend,
    *,
    draft: LoadedDraft | None = None,
    heads: LoadedHeads | None = None,
    progress: StepProgress | None = None,
) -> tuple[int | None, tuple[Choice, ...]]:
    """Bytes for the KV pool once the weights are in, and what was measured; None where the memory is the machine's.

    The largest steps of the model and of what guesses for it run once, and CUDA graphs are captured, over a cache of
    one block. Raises `ConfigError` with the numbers if nothing is left.
    """
    free_bytes = backend.free_bytes(config.gpu_memory_utilization)  # measured: the weights are in
    is_sized = config.num_kv_blocks is not None or config.kv_cache_memory_bytes is not None
    if free_bytes is None or is_sized or not isinstance(backend, AsynchronousBackend):
        return free_bytes, ()
    weights_are_f32 = parameters.layers[0].q.layout == "f32"
    sizes = resolve(config, spec, weights_are_f32=weights_are_f32, available_bytes=PLENTY, on_gpu=True)
    measured = [_of_model(config, sizes, spec, parameters, names_states=heads is not None)]
    if draft is not None:
        program, limits, max_context = draft_step(draft, sizes)
        measured.append(_Measured("the draft model", program, draft.kv_spec, limits, max_context))
    if heads is not None:
        step = heads_step(heads, sizes, spec, parameters, num_heads_of(heads, config))
        measured.append(_Measured("the Medusa heads", *step, 1))
    all_bytes = [
        backend.step_bytes(one.program, one.kv_spec, one.limits, one.max_context, progress) for one in measured
    ]
    step_bytes = sum(all_bytes)
    if step_bytes >= free_bytes:
        raise ConfigError(
            f"gpu_memory_utilization {config.gpu_memory_utilization} leaves {free_bytes / 2**30:.2f} GiB beside the "
            f"weights, and steps of {sizes.max_num_batched_tokens} tokens for {sizes.max_num_seqs} sequences take "
            f"{step_bytes / 2**30:.2f}: raise it, or lower max_num_seqs, max_num_batched_tokens or max_model_len, or "
            "use --quantization int4"
        )
    parts = [
        f"; {num_bytes / 2**30:.2f} of it {one.name}'s"
        for one, num_bytes in zip(measured, all_bytes, strict=True)
        if one.name
    ]
    reason = f"measured: the largest step with its sampling, and its CUDA graphs{''.join(parts)}"
    return free_bytes - step_bytes, (Choice("step_memory", f"{step_bytes / 2**30:.2f} GiB", reason),)


def _of_model(
    config: EngineConfig, sizes: ResolvedConfig, spec: ModelSpec, parameters: Parameters, *, names_states: bool
) -> _Measured:
    """A step samples a row for each sequence, and one for each guess."""
    wanted = config.speculative_config
    rows = sizes.max_num_seqs * (1 if wanted is None else 1 + wanted.num_speculative_tokens)
    kv_spec = KVSpec(spec.num_layers, spec.num_kv_heads, spec.head_dim, sizes.block_size, sizes.kv_cache_dtype)
    program = build_decoder(spec, parameters, sizes.max_model_len, names_states=names_states)
    tokens = sizes.max_num_batched_tokens
    limits = StepLimits(tokens, max(sizes.max_num_seqs, min(rows, tokens)), max_sequences=sizes.max_num_seqs)
    return _Measured("", program, kv_spec, limits, sizes.max_model_len)
