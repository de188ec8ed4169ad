"""One configuration that may be measured: the values that the search varies, and nothing else."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from vivace.core.config import BatchingPolicy, EngineConfig, KVDtype, Quantization
from vivace.core.speculation import SpeculativeConfig

DEFAULT_BLOCK_SIZE = 16
CACHE_WORDS: dict[str, str] = {
    "f32": "32-bit cache",
    "f16": "16-bit cache",
    "bf16": "16-bit cache",
    "int8_per_token_head": "8-bit cache",
    "int4_per_token_head": "4-bit cache",
    "int4_k_per_channel": "4-bit cache with keys by channel",
}
CACHE_MARKS: dict[str, str] = {
    "f32": "kv32",
    "f16": "kv16",
    "bf16": "kv16",
    "int8_per_token_head": "kv8",
    "int4_per_token_head": "kv4",
    "int4_k_per_channel": "kv4c",
}
WEIGHT_WORDS: dict[str, str] = {
    "auto": "weights as stored",
    "f32": "32-bit weights",
    "bf16": "16-bit weights",
    "int8": "8-bit weights",
    "w8a8": "8-bit weights and activations",
    "llm_int8": "8-bit weights, outliers in 16",
    "int4": "4-bit weights",
}


@dataclass(frozen=True, slots=True)
class Candidate:
    """Hashable, and equal to another one that runs the same. `num_threads=None` leaves threads to the engine."""

    quantization: Quantization = "auto"
    kv_cache_dtype: KVDtype = "bf16"
    max_num_seqs: int = 64
    max_num_batched_tokens: int = 512
    block_size: int = DEFAULT_BLOCK_SIZE
    enable_prefix_caching: bool = True
    speculation: SpeculativeConfig | None = None
    num_threads: int | None = None
    batching: BatchingPolicy = "continuous"

    @property
    def key(self) -> str:
        """Its identity as text: canonical JSON of its values."""
        return json.dumps(asdict(self), sort_keys=True, separators=(",", ":"))

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Candidate:
        """The inverse of `asdict`, and of `json.loads(key)`."""
        return cls(**{**record, "speculation": SpeculativeConfig.parse(record["speculation"])})

    @property
    def logits_key(self) -> tuple[str, str]:
        """What the quality of its text depends on: everything else gives equal logits, to the bit."""
        return self.quantization, self.kv_cache_dtype

    @property
    def words(self) -> str:
        """What it does, for sentences."""
        parts = [WEIGHT_WORDS[self.quantization], CACHE_WORDS[self.kv_cache_dtype]]
        parts.append(f"{self.max_num_seqs} at once" if self.batching == "continuous" else self._static_words)
        parts.append(f"{self.max_num_batched_tokens} tokens a step")
        if self.block_size != DEFAULT_BLOCK_SIZE:
            parts.append(f"blocks of {self.block_size}")
        if not self.enable_prefix_caching:
            parts.append("no prefix cache")
        if self.speculation is not None:
            parts.append(speculation_words(self.speculation))
        if self.num_threads is not None:
            parts.append(f"{self.num_threads} thread{'s' * (self.num_threads != 1)}")
        return ", ".join(parts)

    @property
    def _static_words(self) -> str:
        return "one after another" if self.max_num_seqs == 1 else f"static batches of {self.max_num_seqs}"

    @property
    def short(self) -> str:
        """In as few characters as tell it from others."""
        batching = "" if self.batching == "continuous" else " static"
        parts = [self.quantization, CACHE_MARKS[self.kv_cache_dtype], f"{self.max_num_seqs}{batching}"]
        parts.append(f"{self.max_num_batched_tokens}/{self.block_size}")
        if not self.enable_prefix_caching:
            parts.append("no prefix")
        if self.speculation is not None:
            parts.append(
                f"{self.speculation.method.removesuffix('_model')} {self.speculation.num_speculative_tokens}"
            )
        if self.num_threads is not None:
            parts.append(f"{self.num_threads}t")
        return " ".join(parts)

    def differences(self, other: Candidate) -> tuple[str, ...]:
        """Names of the values in which the two differ."""
        return tuple(one.name for one in fields(self) if getattr(self, one.name) != getattr(other, one.name))

    def engine_config(self, base: EngineConfig, num_kv_blocks: int) -> EngineConfig:
        """The whole configuration: the model and what is not varied come from `base`."""
        return replace(
            base,
            quantization=self.quantization,
            kv_cache_dtype=self.kv_cache_dtype,
            max_num_seqs=self.max_num_seqs,
            max_num_batched_tokens=self.max_num_batched_tokens,
            block_size=self.block_size,
            enable_prefix_caching=self.enable_prefix_caching,
            speculative_config=self.speculation,
            num_threads=self.num_threads,
            batching=self.batching,
            static_batch_size=self.max_num_seqs,
            static_batch_timeout_ms=0.0,  # everything that waits is there at once: a batch never waits to fill up
            num_kv_blocks=num_kv_blocks,
            kv_cache_memory_bytes=None,
        )


def speculation_words(speculation: SpeculativeConfig | None) -> str:
    """`no speculation`, or who guesses how many tokens."""
    if speculation is None:
        return "no speculation"
    guesser = {"ngram": "n-grams", "draft_model": "a draft model", "medusa": "Medusa heads"}[speculation.method]
    return f"{speculation.num_speculative_tokens} tokens guessed by {guesser}"
