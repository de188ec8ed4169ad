"""Section (c): however a request is served, what it would have got alone; and what the reference backend gives.

A device's libraries choose their order of sums by the number of rows, so bits may differ. Up to the first token that
does, both runs have the same context: there the log probabilities of the five best tokens must agree, and with them
a token that parts is a tie or a draw at the edge between two tokens. After it the texts are two texts.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from gpu.setting import Item, Setting
from vivace.core.events import RequestOutput
from vivace.core.sampling import SamplingParams
from vivace.engine.llm import LLM

LLAMA: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 256,
    "intermediate_size": 704,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "vocab_size": 997,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
}
GEMMA = LLAMA | {
    "model_type": "gemma2",
    "num_key_value_heads": 1,
    "hidden_activation": "gelu_pytorch_tanh",
    "query_pre_attn_scalar": 64,
    "attn_logit_softcapping": 50.0,
    "final_logit_softcapping": 30.0,
    "sliding_window": 24,
    "tie_word_embeddings": True,
}
FAMILIES = {"llama": LLAMA, "gemma2": GEMMA}
VARIANTS = (
    ("llama", "bf16", "auto"),
    ("llama", "int4", "auto"),
    ("llama", "f32", "auto"),
    ("gemma2", "bf16", "int8_per_token_head"),
    ("llama", "int8", "int4_per_token_head"),
    ("gemma2", "int4", "int4_k_per_channel"),
    ("llama", "w8a8", "auto"),
    ("gemma2", "llm_int8", "f16"),
)
WAYS: dict[str, dict[str, Any]] = {
    "batched": {},
    "static": {"batching": "static", "static_batch_size": 3, "static_batch_timeout_ms": 0.0},
    "in chunks": {"max_num_batched_tokens": 9},
    "preempted": {"num_kv_blocks": 9},
}
METHODS: dict[str, dict[str, Any]] = {
    "ngram": {"method": "ngram", "prompt_lookup_min": 2},
    "draft_model": {"method": "draft_model", "model": "embedded-draft"},
    "medusa": {"method": "medusa", "num_speculative_tokens": 12},
}
TEXTS = [
    "the whale and the ship, the whale and the ship, the whale and",
    "It was a dark night. It was a dark night. It was",
    "In the morning they went down to the river and",
    "1, 2, 3, 4, 1, 2, 3, 4, 1, 2,",
]
# Of log probabilities, whose spread here is about 1: bfloat16 between operations moves them by some 0.01, and a code
# of an activation or a key that falls on its other side by more. Where values are float32 only codes can.
PLAIN_TOLERANCE, CODED_TOLERANCE, FLOAT32_TOLERANCE = 0.05, 0.15, 0.005
CODED_WEIGHTS = ("w8a8", "llm_int8")
TOKENS, BEST = 24, 5


@dataclass(frozen=True, slots=True)
class Variant:
    family: str
    quantization: str
    kv_cache_dtype: str

    @property
    def tolerance(self) -> float:
        is_coded = self.quantization in CODED_WEIGHTS or self.kv_cache_dtype.startswith("int")
        if is_coded or "fp8" in self.quantization + self.kv_cache_dtype:
            return CODED_TOLERANCE
        return FLOAT32_TOLERANCE if self.quantization == "f32" else PLAIN_TOLERANCE

    def options(self, setting: Setting, config: Path) -> dict[str, Any]:
        config.write_text(json.dumps(FAMILIES[self.family]))
        return setting.engine_options | {
            "config": str(config),
            "quantization": self.quantization,
            "kv_cache_dtype": self.kv_cache_dtype,
            "max_num_seqs": 8,
            "max_model_len": 96,
            "num_kv_blocks": 256,
        }


def equivalence_items(setting: Setting) -> Iterator[Item]:
    for names in VARIANTS[:1] if setting.is_tiny else VARIANTS:
        variant = Variant(*names)
        for way in ("reference", *WAYS, "from cached prefixes"):
            yield Item(f"{' '.join(names)}: {way}", partial(compare_way, setting, variant, way), 15.0)
    for method in list(METHODS)[:1] if setting.is_tiny else METHODS:
        yield Item(f"embedded model: guessing by {method}", partial(compare_guesses, setting, method), 20.0)


def compare_way(setting: Setting, variant: Variant, way: str) -> dict[str, Any]:
    """Alone against one way to be served; "reference": greedy requests alone on both backends."""
    with tempfile.TemporaryDirectory() as folder:
        options = variant.options(setting, Path(folder) / "config.json")
        rng = np.random.default_rng([setting.seed, *way.encode()])
        count, tokens = (3, 6) if setting.is_tiny else (6, TOKENS)
        prompts = [rng.integers(0, 997, rng.integers(10, 40)).tolist() for _ in range(count)]
        asked = [_params(0 if way == "reference" else number, tokens) for number in range(count)]
        if way == "from cached prefixes":
            prompts = [prompts[0][:1] * 33 + prompt[:9] for prompt in prompts]
        alone = _alone(options, prompts, asked)
        if way == "reference":
            reference = {**options, "backend": "reference", "device": "cpu"}
            return _compared(alone, _alone(reference, prompts, asked), variant.tolerance)
        llm = LLM(**{**options, **WAYS.get(way, {})})
        outputs = llm.generate(prompts, asked)
        if way == "from cached prefixes":
            outputs = llm.generate(prompts, asked)
        found = _compared(outputs, alone, variant.tolerance)
        if way == "preempted":
            found["num_preemptions"] = llm.engine.stats.num_preemptions
            found["is_right"] &= setting.is_tiny or llm.engine.stats.num_preemptions > 0
        if way == "from cached prefixes":
            found["num_cached_tokens"] = sum(output.num_cached_tokens for output in outputs)
        return found


def compare_guesses(setting: Setting, method: str) -> dict[str, Any]:
    """The embedded model, whose text can be guessed, with guesses and without."""
    options = {"backend": "cuda", "device": setting.device, "max_num_seqs": 8, "num_kv_blocks": 256}
    options |= {"max_model_len": 128}
    asked = [_params(3 * (number % 2), 8 if setting.is_tiny else 32) for number in range(len(TEXTS))]
    plain = LLM(**options).generate(TEXTS, asked)
    llm = LLM(**options, speculative_config=METHODS[method] | {"adaptive": False})
    return _compared(llm.generate(TEXTS, asked), plain, PLAIN_TOLERANCE)


def _alone(options: dict[str, Any], prompts: list[list[int]], asked: list[SamplingParams]) -> list[RequestOutput]:
    llm = LLM(**{**options, "enable_prefix_caching": False})
    return [llm.generate([prompt], params)[0] for prompt, params in zip(prompts, asked, strict=True)]


def _params(number: int, max_tokens: int) -> SamplingParams:
    """Greedy, sampled and penalised requests in turn."""
    common: dict[str, Any] = {"max_tokens": max_tokens, "logprobs": BEST, "ignore_eos": True}
    if number % 3 == 0:
        return SamplingParams(temperature=0.0, **common)
    if number % 3 == 1:
        return SamplingParams(temperature=0.9, top_p=0.9, top_k=40, seed=number, **common)
    return SamplingParams(temperature=1.1, min_p=0.02, repetition_penalty=1.2, seed=number, **common)


def _compared(outputs: list[RequestOutput], expected: list[RequestOutput], tolerance: float) -> dict[str, Any]:
    found = [_difference(one, other) for one, other in zip(outputs, expected, strict=True)]
    largest = max(difference for difference, _ in found)
    return {
        "error": None,
        "num_requests": len(found),
        "num_parted": sum(parted is not None for _, parted in found),
        "parted_at": [parted for _, parted in found],
        "largest_difference": largest,
        "tolerance": tolerance,
        "is_right": largest <= tolerance,
    }


def _difference(output: RequestOutput, expected: RequestOutput) -> tuple[float, int | None]:
    """The largest between the best tokens' log probabilities while the context is the same; where tokens parted."""
    one, other = output.outputs[0], expected.outputs[0]
    if len(one.token_ids) != len(other.token_ids) or one.logprobs is None or other.logprobs is None:
        return float("inf"), 0
    largest = 0.0
    for place, (mine, true) in enumerate(zip(one.logprobs, other.logprobs, strict=True)):
        difference = np.abs(np.array(mine.top_logprobs) - np.array(true.top_logprobs)).max()
        largest = max(largest, float(difference) if np.isfinite(difference) else float("inf"))
        if mine.token != true.token:
            return largest, place
    return largest, None
