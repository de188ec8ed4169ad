"""From an `EngineConfig` to an engine that runs: files, backend, parameters, program, cache, scheduler."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

from vivace.core.config import Choice, EngineConfig, ResolvedConfig
from vivace.core.errors import ConfigError, RequestError
from vivace.engine.backend import make_backend, thread_choices
from vivace.engine.constraint_room import ConstraintRoom
from vivace.engine.device_memory import room_for_cache
from vivace.engine.draft import LoadedDraft, load_draft, make_speculation
from vivace.engine.engine import Engine
from vivace.engine.generation_config import GenerationConfig, load_generation_config
from vivace.engine.medusa import LoadedHeads, load_heads, medusa_speculation
from vivace.engine.memory import available_memory_bytes
from vivace.engine.model_limits import ModelLimits
from vivace.engine.packed_cache import PackedCache, open_packed_cache
from vivace.engine.resolve import KV_MEMORY_SHARE, resolve
from vivace.engine.source import ModelSource, locate
from vivace.engine.tokenizer import Tokenizer, load_tokenizer, tokenizer_from_gguf
from vivace.engine.weight_room import check_room
from vivace.formats.checkpoint import Checkpoint, open_checkpoint
from vivace.models.decoder import build_decoder
from vivace.models.gguf_config import spec_from_gguf
from vivace.models.hf_config import read_config_file, read_hf_config
from vivace.models.parameters import (
    QUANTIZED_ENCODINGS,
    Parameters,
    Progress,
    Quantization,
    dummy_parameters,
    load_parameters,
)
from vivace.models.presets import preset_spec
from vivace.models.spec import ModelSpec
from vivace.models.weight_bytes import dummy_weight_bytes, least_weight_bytes
from vivace.ops.backend import AsynchronousBackend, Backend, KVSpec, StepLimits
from vivace.runtime.batch import BatchBuilder
from vivace.runtime.runner import Runner
from vivace.schedule import BlockManager, ContinuousBatching, Scheduler, StaticBatching
from vivace.speculate.speculation import Speculation
from vivace.speculate.typical import make_judge

FP8_ON_CPU = Choice(
    "fp8_weights", "bf16", "no processor multiplies 8-bit floats, and int8 by rows would round them once more"
)


@dataclass(slots=True)
class LoadedEngine:
    """An engine with what was loaded for it. `choices` says what was decided and why."""

    engine: Engine
    tokenizer: Tokenizer | None
    spec: ModelSpec
    backend: Backend
    parameters: Parameters
    kv_spec: KVSpec
    choices: tuple[Choice, ...]
    draft: LoadedDraft | None = None
    generation: GenerationConfig = field(default_factory=GenerationConfig)

    @property
    def weight_bytes(self) -> int:
        """Bytes of all packed weights."""
        return self.parameters.num_bytes

    def encode(self, text: str) -> list[int]:
        """Token ids of a prompt. Raises `RequestError` when the model came without a tokenizer."""
        if self.tokenizer is None:
            raise RequestError("this model has no tokenizer: pass prompts as token ids", param="prompt")
        return self.tokenizer.encode(text)


def load_engine(config: EngineConfig, progress: Progress | None = None) -> LoadedEngine:
    """Load a model and make it ready. `progress(done, total)` counts parameters, then a GPU's CUDA graphs: once to
    measure the memory that they take, where the KV pool is sized by it, and once to keep them.

    Raises `ConfigError` for options that cannot be met and `ModelFileError` for a broken model.
    """
    backend, device = make_backend(config)
    available_bytes = available_memory_bytes()  # before: pages of a mapped file count as free afterwards
    if config.load_format == "dummy":
        spec, tokenizer = _dummy_model(config)
        encoding = "bf16" if config.quantization == "auto" else QUANTIZED_ENCODINGS[config.quantization]
        check_room("the weights", config, backend, lambda one: _dummy_bytes(spec, one))
        parameters = dummy_parameters(spec, backend, encoding, config.seed, progress)
        packed = Choice("packed_cache", "off", "random weights")
        generation = load_generation_config(config, None, {})
        stored: tuple[Choice, ...] = ()
    else:
        source = locate(config.model)
        with open_checkpoint(source.path) as checkpoint:
            spec = spec_from_gguf(checkpoint) if source.kind == "gguf" else read_hf_config(source.path)
            generation = load_generation_config(config, source, checkpoint.metadata)
            check_room("the weights", config, backend, lambda one: least_weight_bytes(spec, checkpoint, one))
            with ThreadPoolExecutor(1) as beside:
                waiting = beside.submit(_tokenizer, config, source, checkpoint)
                cache = open_packed_cache(config, source.path, backend)
                if isinstance(cache, Choice) or cache.reader is None:
                    waiting.result()  # an error in it should not take the minutes that packing may
                parameters, packed = _load_parameters(config, spec, checkpoint, backend, cache, progress)
                tokenizer = waiting.result()
            stored = (FP8_ON_CPU,) if checkpoint.holds_fp8 and backend.name == "cpu" else ()
    available_bytes = max(0, available_bytes - parameters.num_bytes)
    loading = (device, packed, *stored, *thread_choices(config, backend))
    return _with_guessers(
        config, spec, tokenizer, backend, parameters, generation, loading, available_bytes, progress
    )


def load_again(loaded: LoadedEngine, config: EngineConfig) -> LoadedEngine:
    """Another engine over the same weights, with a cache and a scheduler of its own, empty.

    `config` has the model, quantization, threads and instruction set that `loaded` was loaded with. Errors as
    `load_engine`.
    """
    return _with_guessers(
        config,
        loaded.spec,
        loaded.tokenizer,
        loaded.backend,
        loaded.parameters,
        loaded.generation,
        loaded.choices[:2],
        available_memory_bytes(),
    )


def load_model_tokenizer(config: EngineConfig) -> Tokenizer:
    """The tokenizer alone, without weights: `config.model` may be a vocabulary-only GGUF file."""
    source = locate(config.tokenizer or config.model)
    if source.kind == "directory":
        return load_tokenizer(source.path)
    with open_checkpoint(source.path) as checkpoint:
        return tokenizer_from_gguf(checkpoint.metadata)


def _load_parameters(
    config: EngineConfig,
    spec: ModelSpec,
    checkpoint: Checkpoint,
    backend: Backend,
    cache: PackedCache | Choice,
    progress: Progress | None,
) -> tuple[Parameters, Choice]:
    """From the cache of packed weights where it has them; and what became of that cache."""
    quantization = None if config.quantization == "auto" else config.quantization
    if isinstance(cache, Choice):
        return load_parameters(spec, checkpoint, backend, quantization, progress), cache
    parameters = load_parameters(spec, checkpoint, backend, quantization, progress, cache)
    return parameters, cache.finish()


def _with_guessers(
    config: EngineConfig,
    spec: ModelSpec,
    tokenizer: Tokenizer | None,
    backend: Backend,
    parameters: Parameters,
    generation: GenerationConfig,
    loading: tuple[Choice, ...],
    available_bytes: int,
    progress: Progress | None = None,
) -> LoadedEngine:
    """Load the draft model or the heads that were asked for, and decide the sizes that they leave room for."""
    draft, heads = load_draft(config, spec, tokenizer, backend), load_heads(config, spec, backend)
    draft_bytes = (draft.parameters.num_bytes if draft else 0) + (heads.parameters.num_bytes if heads else 0)
    device_bytes, measured = room_for_cache(
        config, spec, parameters, backend, draft=draft, heads=heads, progress=progress
    )
    resolved = resolve(
        config,
        spec,
        weights_are_f32=parameters.layers[0].q.layout == "f32",
        available_bytes=max(0, available_bytes - draft_bytes) if device_bytes is None else device_bytes,
        kv_share=KV_MEMORY_SHARE if device_bytes is None else 1.0,
        draft_block_bytes=draft.kv_spec.bytes_per_block if draft else 0,
        on_gpu=device_bytes is not None,
    )
    if device_bytes is None:
        _check_pool(config, spec, resolved, draft, max(0, available_bytes - draft_bytes))
    choices = (*loading, *measured)
    return _assemble(
        config, resolved, spec, tokenizer, backend, parameters, generation, draft, heads, choices, progress
    )


def _check_pool(
    config: EngineConfig, spec: ModelSpec, resolved: ResolvedConfig, draft: LoadedDraft | None, available_bytes: int
) -> None:
    """The machine's memory is taken as requests fill the pool: one that cannot fit would end the process then."""
    kv = KVSpec(spec.num_layers, spec.num_kv_heads, spec.head_dim, resolved.block_size, resolved.kv_cache_dtype)
    needed = resolved.num_kv_blocks * (kv.bytes_per_block + (draft.kv_spec.bytes_per_block if draft else 0))
    if needed > available_bytes:
        option = "num_kv_blocks" if config.num_kv_blocks is not None else "kv_cache_memory_bytes"
        raise ConfigError(
            f"{option} {getattr(config, option)} takes {needed / 2**30:,.1f} GiB, and beside the weights "
            f"{available_bytes / 2**30:,.1f} GiB are free: ask for less, or leave it out"
        )


def _assemble(
    config: EngineConfig,
    resolved: ResolvedConfig,
    spec: ModelSpec,
    tokenizer: Tokenizer | None,
    backend: Backend,
    parameters: Parameters,
    generation: GenerationConfig,
    draft: LoadedDraft | None,
    heads: LoadedHeads | None,
    loading: tuple[Choice, ...],
    progress: Progress | None,
) -> LoadedEngine:
    kv_spec = KVSpec(spec.num_layers, spec.num_kv_heads, spec.head_dim, resolved.block_size, resolved.kv_cache_dtype)
    kv_cache = backend.kv_cache(kv_spec, resolved.num_kv_blocks)
    limits = _step_limits(resolved)
    program = build_decoder(spec, parameters, resolved.max_model_len, names_states=heads is not None)
    executable = backend.compile(program, kv_cache, limits)
    hidden = backend.compile(
        build_decoder(spec, parameters, resolved.max_model_len, output="hidden"),
        kv_cache,
        replace(limits, max_sequences=0),
    )
    batch = BatchBuilder(resolved.max_num_seqs, resolved.max_model_len, resolved.block_size)
    eos_ids = frozenset(spec.eos_token_ids) | (tokenizer.eos_ids if tokenizer else frozenset())
    eos_ids |= {token_id for token_id in generation.eos_ids if 0 <= token_id < spec.vocab_size}
    scheduler = make_scheduler(resolved)
    kv_cache.track(scheduler.block_manager.references)
    wanted = config.speculative_config
    if heads is not None and wanted is not None:
        speculation: Speculation | None = medusa_speculation(
            heads, wanted, resolved, spec, parameters, backend, kv_cache
        )
    else:
        speculation, draft_cache = make_speculation(config, resolved, draft, backend, batch, progress)
        if draft_cache is not None:
            draft_cache.track(scheduler.block_manager.references)
    engine = Engine(
        Runner(
            backend,
            executable,
            kv_cache,
            batch,
            hidden,
            names_states=heads is not None,
            judge=make_judge(wanted),
        ),
        scheduler,
        resolved,
        ModelLimits(spec.vocab_size, eos_ids),
        constraints=ConstraintRoom(tokenizer, eos_ids),
        speculation=speculation,
    )
    prepared = backend.prepare(executable, progress) if isinstance(backend, AsynchronousBackend) else None
    choices = (*loading, *([prepared] if prepared else []), *resolved.choices, generation.choice)
    return LoadedEngine(engine, tokenizer, spec, backend, parameters, kv_spec, choices, draft, generation)


def _step_limits(config: ResolvedConfig) -> StepLimits:
    return StepLimits(
        max_tokens=config.max_num_batched_tokens,
        max_sampled=config.max_num_batched_tokens + config.max_num_seqs,
        max_sequences=config.max_num_seqs,
        max_context=config.max_model_len,
    )


def make_scheduler(config: ResolvedConfig, clock: Callable[[], float] = time.monotonic) -> Scheduler:
    """The batching policy that was chosen, over a pool of its own."""
    manager = BlockManager(config.num_kv_blocks, config.block_size, config.enable_prefix_caching)
    if config.batching == "static":
        return StaticBatching(
            manager,
            max_num_seqs=config.static_batch_size,
            max_num_batched_tokens=config.max_num_batched_tokens,
            max_model_len=config.max_model_len,
            max_wait_s=config.static_batch_timeout_ms / 1e3,
            clock=clock,
            enable_chunked_prefill=config.enable_chunked_prefill,
        )
    return ContinuousBatching(
        manager,
        max_num_seqs=config.max_num_seqs,
        max_num_batched_tokens=config.max_num_batched_tokens,
        max_model_len=config.max_model_len,
        enable_chunked_prefill=config.enable_chunked_prefill,
    )


def _tokenizer(config: EngineConfig, source: ModelSource, checkpoint: Checkpoint) -> Tokenizer:
    if config.tokenizer is not None:
        return load_model_tokenizer(config)
    return tokenizer_from_gguf(checkpoint.metadata) if source.kind == "gguf" else load_tokenizer(source.path)


def _dummy_bytes(spec: ModelSpec, quantization: Quantization | None) -> int:
    return dummy_weight_bytes(spec, QUANTIZED_ENCODINGS[quantization or "bf16"])


def _dummy_model(config: EngineConfig) -> tuple[ModelSpec, Tokenizer | None]:
    tokenizer = load_model_tokenizer(config) if config.tokenizer or config.model else None
    if config.config is None:
        source = locate(config.model)
        if source.kind == "directory":  # config.json alone is enough: no weights are read
            return read_hf_config(source.path), tokenizer
        with open_checkpoint(source.path) as checkpoint:
            return spec_from_gguf(checkpoint), tokenizer
    path = Path(config.config)
    if path.is_dir():
        return read_hf_config(path), tokenizer
    return read_config_file(path) if path.suffix == ".json" else preset_spec(config.config), tokenizer
