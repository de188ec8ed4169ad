"""Configuration as values: what the user asked for. "auto" is resolved elsewhere, into another type."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, fields
from os import PathLike, fspath
from typing import Any, Literal, get_args

from vivace.core.errors import ConfigError
from vivace.core.nearest_name import nearest_name
from vivace.core.option_types import check_types
from vivace.core.speculation import SpeculativeConfig

LoadFormat = Literal["auto", "dummy"]
Quantization = Literal["auto", "f32", "bf16", "int8", "int4", "w8a8", "llm_int8", "fp8"]
KVDtype = Literal[
    "f32", "bf16", "f16", "int8_per_token_head", "int4_per_token_head", "int4_k_per_channel", "fp8_e4m3"
]
KVCacheDtype = Literal["auto", KVDtype]
BatchingPolicy = Literal["continuous", "static"]
BackendName = Literal["auto", "cpu", "cuda", "reference"]
AttentionBackend = Literal["auto", "triton", "sdpa", "flashinfer", "flash_attn", "torch"]
KV_CACHE_ALIASES: dict[str, KVCacheDtype] = {"fp8": "fp8_e4m3"}

CHOICES: dict[str, tuple[str, ...]] = {
    "load_format": get_args(LoadFormat),
    "quantization": get_args(Quantization),
    "kv_cache_dtype": get_args(KVCacheDtype),
    "batching": get_args(BatchingPolicy),
    "backend": get_args(BackendName),
    "attention_backend": get_args(AttentionBackend),
}
PATHS = ("model", "tokenizer", "config", "generation_config")  # names, or paths in any form
COUNTS = (
    *("max_model_len", "max_num_seqs", "max_num_batched_tokens", "block_size", "num_threads"),
    *("kv_cache_memory_bytes", "num_kv_blocks", "static_batch_size"),
)


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """What the user asked for; None and "auto" mean that Vivace chooses and says why (`vivace doctor`).

    `model` is a directory, a GGUF file, a hub name, or None for the embedded model. `config` names a preset or a
    config.json and goes with `load_format="dummy"`: random weights of that shape.
    """

    model: str | None = None
    tokenizer: str | None = None
    generation_config: str = "auto"  # what the model's makers advise to sample with; "vllm": nothing; else a path
    load_format: LoadFormat = "auto"
    config: str | None = None
    quantization: Quantization = "auto"
    packed_cache: bool = True
    kv_cache_dtype: KVCacheDtype = "auto"
    max_model_len: int | None = None
    max_num_seqs: int = 256
    max_num_batched_tokens: int | None = None
    block_size: int = 16
    kv_cache_memory_bytes: int | None = None
    num_kv_blocks: int | None = None  # exact pool size; overrides kv_cache_memory_bytes
    enable_prefix_caching: bool = True
    enable_chunked_prefill: bool = True
    batching: BatchingPolicy = "continuous"
    static_batch_size: int = 8
    static_batch_timeout_ms: float = 50.0
    speculative_config: SpeculativeConfig | None = None
    num_threads: int | None = None
    instruction_set: str | None = None  # force one for tests and comparisons
    backend: BackendName = "auto"
    attention_backend: AttentionBackend = "auto"  # of a GPU's prompts
    device: str = "auto"  # auto, cpu, cuda or cuda:N
    overlap_steps: bool = True  # on a GPU: launch the next step before the tokens of the last one are read
    gpu_memory_utilization: float = 0.9  # of a GPU's memory: weights, KV cache and what steps take
    seed: int = 0

    def __post_init__(self) -> None:
        for name in PATHS:
            if isinstance(getattr(self, name), PathLike):
                object.__setattr__(self, name, fspath(getattr(self, name)))
        if isinstance(self.kv_cache_dtype, str):
            object.__setattr__(self, "kv_cache_dtype", KV_CACHE_ALIASES.get(self.kv_cache_dtype, self.kv_cache_dtype))
        for name in COUNTS:
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
                raise ConfigError(f"{name} must be a positive integer, not {value!r}")
        check_types(self)
        if not self.generation_config:
            raise ConfigError("generation_config must be auto, vllm, or the path of a directory or a file")
        if not 0 <= self.static_batch_timeout_ms < math.inf:
            raise ConfigError(f"static_batch_timeout_ms must be 0 or more, not {self.static_batch_timeout_ms!r}")
        if not re.fullmatch(r"auto|cpu|cuda(:\d{1,3})?", str(self.device)):
            raise ConfigError(f"device must be auto, cpu, cuda or cuda:N, as in cuda:1, not {self.device!r}")
        if not 0 < self.gpu_memory_utilization <= 1:
            raise ConfigError(
                f"gpu_memory_utilization is a share above 0 and up to 1, not {self.gpu_memory_utilization!r}"
            )
        if self.backend == "cpu" and self.device.startswith("cuda"):
            raise ConfigError(f"the cpu backend does not run on {self.device}: leave out --backend")
        if self.config is not None and self.load_format != "dummy":
            raise ConfigError(
                "config gives a shape for random weights: use it with load_format='dummy' (a file with the table "
                "[engine], for vivace serve, ends in .toml)"
            )
        if self.load_format == "dummy" and self.config is None and self.model is None:
            raise ConfigError("load_format='dummy' needs a config: a preset's name or a config.json")

    @classmethod
    def from_options(cls, options: dict[str, Any]) -> EngineConfig:
        """Build from keyword options; an unknown key is an error that names the nearest known one."""
        known = [field.name for field in fields(cls)]
        for key in options:
            if key not in known:
                raise ConfigError(f"unknown option {key!r}{nearest_name(key, known)}")
        if "speculative_config" in options:
            options = {**options, "speculative_config": SpeculativeConfig.parse(options["speculative_config"])}
        return cls(**options)


@dataclass(frozen=True, slots=True)
class Choice:
    """One resolved value and why."""

    name: str
    value: object
    reason: str


@dataclass(frozen=True, slots=True)
class ResolvedConfig:
    """Every value decided. `choices` carries the reasons."""

    max_model_len: int
    max_num_seqs: int
    max_num_batched_tokens: int
    block_size: int
    num_kv_blocks: int
    kv_cache_dtype: KVDtype
    enable_prefix_caching: bool
    enable_chunked_prefill: bool
    batching: BatchingPolicy
    static_batch_size: int
    static_batch_timeout_ms: float
    seed: int
    choices: tuple[Choice, ...]
    overlap_steps: bool = True
