"""The speculation that was asked for, and the draft model that it may need."""

from __future__ import annotations

from dataclasses import dataclass

from vivace.core.config import EngineConfig, KVDtype, ResolvedConfig
from vivace.core.errors import ConfigError
from vivace.core.speculation import SpeculativeConfig
from vivace.engine.source import locate
from vivace.engine.tokenizer import Tokenizer, load_tokenizer, tokenizer_from_gguf
from vivace.engine.weight_room import check_room
from vivace.formats.checkpoint import open_checkpoint
from vivace.models.decoder import build_decoder
from vivace.models.gguf_config import spec_from_gguf
from vivace.models.hf_config import read_hf_config
from vivace.models.parameters import Parameters, load_parameters
from vivace.models.spec import ModelSpec
from vivace.models.weight_bytes import least_weight_bytes
from vivace.ops.backend import AsynchronousBackend, Backend, KVCache, KVSpec, StepLimits, StepProgress
from vivace.ops.program import Program
from vivace.runtime.batch import BatchBuilder
from vivace.speculate.draft_model import DraftModel
from vivace.speculate.ngram import NgramProposer
from vivace.speculate.proposer import Proposer
from vivace.speculate.rule import LengthRule
from vivace.speculate.speculation import Speculation


@dataclass(frozen=True, slots=True)
class LoadedDraft:
    """A small model that guesses for another."""

    spec: ModelSpec
    parameters: Parameters
    kv_spec: KVSpec


def load_draft(
    config: EngineConfig, spec: ModelSpec, tokenizer: Tokenizer | None, backend: Backend
) -> LoadedDraft | None:
    """The draft of `config`, None where none is asked for. Raises `ConfigError` if it does not go with the model."""
    wanted = config.speculative_config
    if wanted is None or wanted.method != "draft_model" or wanted.model is None:
        return None
    source = locate(wanted.model)
    with open_checkpoint(source.path) as checkpoint:
        is_gguf = source.kind == "gguf"
        draft_spec = spec_from_gguf(checkpoint) if is_gguf else read_hf_config(source.path)
        draft_tokenizer = tokenizer_from_gguf(checkpoint.metadata) if is_gguf else load_tokenizer(source.path)
        _check_vocabulary(wanted.model, spec, tokenizer, draft_spec, draft_tokenizer)
        quantization = None if config.quantization == "auto" else config.quantization
        check_room(
            "the draft model's weights", config, backend,
            lambda one: least_weight_bytes(draft_spec, checkpoint, one),
        )  # fmt: skip
        parameters = load_parameters(draft_spec, checkpoint, backend, quantization)
    dtype: KVDtype = "f32" if parameters.layers[0].q.layout == "f32" else "bf16"
    kv_spec = KVSpec(draft_spec.num_layers, draft_spec.num_kv_heads, draft_spec.head_dim, config.block_size, dtype)
    return LoadedDraft(draft_spec, parameters, kv_spec)


def make_speculation(
    config: EngineConfig,
    resolved: ResolvedConfig,
    draft: LoadedDraft | None,
    backend: Backend,
    batch: BatchBuilder,
    progress: StepProgress | None = None,
) -> tuple[Speculation | None, KVCache | None]:
    """What guesses for the engine, and the draft's cache, which has the blocks of the engine's own."""
    wanted = config.speculative_config
    if wanted is None:
        return None, None
    if draft is None:
        return _speculation(wanted, NgramProposer(wanted.prompt_lookup_min)), None
    kv_cache = backend.kv_cache(draft.kv_spec, resolved.num_kv_blocks)
    program, limits, max_model_len = draft_step(draft, resolved)
    executable = backend.compile(program, kv_cache, limits)
    if isinstance(backend, AsynchronousBackend):
        backend.prepare(executable, progress)
    proposer = DraftModel(
        backend,
        executable,
        kv_cache,
        batch,
        block_size=resolved.block_size,
        max_model_len=max_model_len,
        max_tokens=limits.max_tokens,
    )
    return _speculation(wanted, proposer), kv_cache


def draft_step(draft: LoadedDraft, sizes: ResolvedConfig) -> tuple[Program, StepLimits, int]:
    """The draft's program, its largest step and its longest context, for a model of these sizes."""
    max_model_len = min(sizes.max_model_len, draft.spec.max_position_embeddings)
    program = build_decoder(draft.spec, draft.parameters, max_model_len)
    seqs = sizes.max_num_seqs
    return program, StepLimits(sizes.max_num_batched_tokens, seqs, seqs, max_model_len), max_model_len


def _speculation(wanted: SpeculativeConfig, proposer: Proposer) -> Speculation:
    most, sequential = wanted.num_speculative_tokens, proposer.is_sequential
    return Speculation(proposer, LengthRule(most, adaptive=wanted.adaptive, sequential=sequential))


def _check_vocabulary(
    name: str, spec: ModelSpec, tokenizer: Tokenizer | None, draft_spec: ModelSpec, draft_tokenizer: Tokenizer
) -> None:
    """Guesses are token ids: every id must mean the same text."""
    if draft_spec.vocab_size != spec.vocab_size:
        raise ConfigError(
            f"the draft {name} has {draft_spec.vocab_size} tokens in its vocabulary, the model {spec.vocab_size}: "
            "a draft needs the model's own vocabulary"
        )
    if tokenizer is None:
        return
    for token in range(spec.vocab_size):
        ours, theirs = tokenizer.token_bytes(token), draft_tokenizer.token_bytes(token)
        if ours != theirs:
            raise ConfigError(
                f"token {token} is {ours!r} for the model and {theirs!r} for the draft {name}: "
                "a draft needs the model's own vocabulary"
            )
