"""The same choices in other engines' flags, where they have them, and what they have no equivalent for.

Their names are those of vLLM 0.9 to 0.11, SGLang 0.5, llama.cpp's server of 2025 and TensorRT-LLM 1.0.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from vivace.core.config import EngineConfig
from vivace.core.errors import ConfigError
from vivace.core.nearest_name import nearest_name
from vivace.core.speculation import SpeculativeConfig

ALL_LAYERS = 999  # of any model
EMBEDDED_MODEL = "MODEL"  # the package's own model is in no other engine


@dataclass(slots=True)
class Equivalent:
    """A command line, files that it needs, and remarks on what differs or is missing."""

    command: list[str]
    files: dict[str, str] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)

    def flag(self, name: str, value: object | None = None) -> None:
        self.command.append(name)
        if value is not None:
            self.command.append(str(value))

    def __str__(self) -> str:
        remarks = [f"# {remark}" for remark in self.remarks]
        files = [f"# {name}:\n{text}" for name, text in self.files.items()]
        return "\n".join([*remarks, *files, shlex.join(self.command)])


def check_engine(name: str) -> None:
    """Raises `ConfigError` for an engine that is not known."""
    if name not in ENGINES:
        raise ConfigError(f"unknown engine {name!r}{nearest_name(name, [*ENGINES])}")


def equivalent(name: str, config: EngineConfig, kv_pool_bytes: int, *, on_gpu: bool = False) -> str:
    """Remarks as comments, then the command. `kv_pool_bytes` is what the pool takes here."""
    check_engine(name)
    found = ENGINES[name](config, kv_pool_bytes)
    if name in ON_CPU and not on_gpu:
        found.remarks += ON_CPU[name](config, kv_pool_bytes)
    if name == "llama.cpp" and on_gpu:
        found.flag("--n-gpu-layers", ALL_LAYERS)
    if name == "vllm" and on_gpu:
        found.flag("--num-gpu-blocks-override", config.num_kv_blocks)
    if config.model is None:
        found.remarks.insert(
            0, f"the embedded model is in no other engine: put your model's name for {EMBEDDED_MODEL}"
        )
    return str(found)


def _vllm(config: EngineConfig, _: int) -> Equivalent:
    made = Equivalent(["vllm", "serve", config.model or EMBEDDED_MODEL])
    _length(made, "--max-model-len", config)
    made.flag("--max-num-seqs", config.max_num_seqs)
    made.flag("--max-num-batched-tokens", config.max_num_batched_tokens)
    made.flag("--block-size", config.block_size)
    made.flag("--enable-prefix-caching" if config.enable_prefix_caching else "--no-enable-prefix-caching")
    made.remarks += _weights(
        config,
        {
            "int8": "8-bit weights: llm-compressor's W8A16 checkpoint, which vLLM recognises by itself",
            "w8a8": "8-bit weights and activations: llm-compressor's W8A8 (INT8) checkpoint, recognised by itself",
            "int4": "4-bit weights: an AWQ or GPTQ checkpoint (vivace quantize writes both), recognised by itself",
            "llm_int8": "LLM.int8: --quantization bitsandbytes",
        },
    )
    if _has_codes(config):
        made.flag("--kv-cache-dtype", "fp8")
        made.remarks.append(f"no {config.kv_cache_dtype} cache: fp8 is its narrowest, on devices that have it")
    if config.speculative_config is not None:
        made.flag("--speculative-config", json.dumps(_vllm_speculation(config.speculative_config)))
        made.remarks.append("its speculation does not rest where guessing does not pay")
    return made


def _vllm_on_cpu(config: EngineConfig, kv_pool_bytes: int) -> list[str]:
    return [
        f"on a CPU: VLLM_CPU_KVCACHE_SPACE in GiB ({kv_pool_bytes / 2**30:.2g} here), and",
        f"VLLM_CPU_OMP_THREADS_BIND for the {config.num_threads or 'all'} threads",
    ]


def _vllm_speculation(wanted: SpeculativeConfig) -> dict[str, object]:
    if wanted.method == "ngram":
        return {
            "method": "ngram",
            "num_speculative_tokens": wanted.num_speculative_tokens,
            "prompt_lookup_min": wanted.prompt_lookup_min,
        }
    if wanted.method == "medusa":
        return {"method": "medusa", "model": wanted.model, "num_speculative_tokens": wanted.num_speculative_tokens}
    return {"model": wanted.model, "num_speculative_tokens": wanted.num_speculative_tokens}


def _sglang(config: EngineConfig, kv_pool_bytes: int) -> Equivalent:
    made = Equivalent(["python", "-m", "sglang.launch_server", "--model-path", config.model or EMBEDDED_MODEL])
    _length(made, "--context-length", config)
    made.flag("--max-running-requests", config.max_num_seqs)
    made.flag("--chunked-prefill-size", config.max_num_batched_tokens)
    made.flag("--page-size", config.block_size)
    if not config.enable_prefix_caching:
        made.flag("--disable-radix-cache")
    made.remarks += _weights(
        config,
        {
            "int8": "8-bit weights: --torchao-config int8wo",
            "w8a8": "8-bit weights and activations: --quantization w8a8_int8 with a checkpoint of llm-compressor",
            "int4": "4-bit weights: AWQ or GPTQ checkpoints (of vivace quantize), or --torchao-config int4wo-128",
            "llm_int8": "LLM.int8 has no equivalent: w8a8_int8 comes nearest",
        },
    )
    if _has_codes(config):
        made.flag("--kv-cache-dtype", "fp8_e5m2")
        made.remarks.append(f"no {config.kv_cache_dtype} cache: fp8 is its narrowest")
    made.flag("--max-total-tokens", (config.num_kv_blocks or 0) * config.block_size)
    if config.speculative_config is not None:
        _sglang_speculation(made, config.speculative_config)
    made.remarks.append(f"the pool takes {kv_pool_bytes / 2**20:,.0f} MiB here")
    return made


def _sglang_on_cpu(config: EngineConfig, _: int) -> list[str]:
    return [f"threads have no flag: the environment has OMP_NUM_THREADS={config.num_threads or 'all'}"]


def _sglang_speculation(made: Equivalent, wanted: SpeculativeConfig) -> None:
    if wanted.method == "medusa":
        made.remarks.append("Medusa heads have no equivalent: EAGLE's come nearest")
        return
    made.flag("--speculative-algorithm", "NGRAM" if wanted.method == "ngram" else "STANDALONE")
    if wanted.model is not None:
        made.flag("--speculative-draft-model-path", wanted.model)
    made.flag("--speculative-num-draft-tokens", wanted.num_speculative_tokens)


def _llama_cpp(config: EngineConfig, kv_pool_bytes: int) -> Equivalent:
    kinds = {"f32": "F32", "bf16": "BF16", "int8": "Q8_0", "w8a8": "Q8_0", "llm_int8": "Q8_0", "int4": "Q4_0"}
    model = config.model or EMBEDDED_MODEL
    if not model.endswith(".gguf"):
        kind = kinds.get(config.quantization, "F16")
        model = f"{model}-{kind}.gguf"
    made = Equivalent(["llama-server", "--model", model])
    made.remarks.append("a GGUF file of that type: vivace quantize --format gguf, or llama-quantize")
    made.flag("--parallel", config.max_num_seqs)
    made.flag("--ctx-size", (config.num_kv_blocks or 0) * config.block_size)
    made.flag("--batch-size", max(config.max_num_batched_tokens or 512, 32))
    made.flag("--ubatch-size", config.max_num_batched_tokens or 512)
    if config.num_threads is not None:
        made.flag("--threads", config.num_threads)
    if _has_codes(config):
        kind = "q8_0" if config.kv_cache_dtype == "int8_per_token_head" else "q4_0"
        for name in ("--cache-type-k", "--cache-type-v"):
            made.flag(name, kind)
        made.flag("--flash-attn", "on")
    if not config.enable_prefix_caching:
        made.flag("--no-cache-prompt")
    made.remarks.append("prefixes are kept by slot and shared between none; blocks have no equivalent")
    wanted = config.speculative_config
    if wanted is not None and wanted.method == "medusa":
        made.remarks.append("Medusa heads have no equivalent")
    elif wanted is not None and wanted.model is not None:
        made.flag("--model-draft", wanted.model)
        made.flag("--draft-max", wanted.num_speculative_tokens)
    elif wanted is not None:
        made.remarks.append("guessing by n-grams has no flag of its server (llama-lookup is a program of its own)")
    made.remarks.append(f"the pool takes {kv_pool_bytes / 2**20:,.0f} MiB here")
    return made


def _tensorrt_llm(config: EngineConfig, kv_pool_bytes: int) -> Equivalent:
    made = Equivalent(["trtllm-serve", config.model or EMBEDDED_MODEL])
    made.flag("--max_batch_size", config.max_num_seqs)
    made.flag("--max_num_tokens", config.max_num_batched_tokens)
    _length(made, "--max_seq_len", config)
    cache = [
        "kv_cache_config:",
        f"  enable_block_reuse: {str(config.enable_prefix_caching).lower()}",
        f"  tokens_per_block: {config.block_size}",
        f"  max_tokens: {(config.num_kv_blocks or 0) * config.block_size}",
    ]
    if _has_codes(config):
        cache.append("  dtype: fp8")
        made.remarks.append(f"no {config.kv_cache_dtype} cache with its PyTorch backend: fp8")
    wanted = config.speculative_config
    if wanted is not None:
        kind = {"ngram": "NGram", "draft_model": "DraftTarget", "medusa": "Medusa"}[wanted.method]
        name = "max_draft_len"
        cache += ["speculative_config:", f"  decoding_type: {kind}", f"  {name}: {wanted.num_speculative_tokens}"]
        cache += [] if wanted.model is None else [f"  speculative_model_dir: {wanted.model}"]
    made.files["extra.yaml"] = "\n".join(cache)
    made.flag("--extra_llm_api_options", "extra.yaml")
    made.remarks += _weights(
        config,
        {
            "int8": "8-bit weights: a W8A16 checkpoint of its Model Optimizer",
            "w8a8": "8-bit weights and activations: an INT8 SmoothQuant checkpoint; on newer GPUs FP8",
            "int4": "4-bit weights: an AWQ or GPTQ checkpoint (vivace quantize writes both)",
            "llm_int8": "LLM.int8 has no equivalent",
        },
    )
    made.remarks.append("it runs on NVIDIA's GPUs alone: threads have no equivalent")
    made.remarks.append(f"the pool takes {kv_pool_bytes / 2**20:,.0f} MiB here")
    return made


def _length(made: Equivalent, name: str, config: EngineConfig) -> None:
    if config.max_model_len is not None:
        made.flag(name, config.max_model_len)


def _weights(config: EngineConfig, words: dict[str, str]) -> Iterator[str]:
    """Weights that are made at load here come from a checkpoint there."""
    if config.quantization in words:
        yield words[config.quantization]


def _has_codes(config: EngineConfig) -> bool:
    return config.kv_cache_dtype.startswith("int")


ENGINES: dict[str, Callable[[EngineConfig, int], Equivalent]] = {
    "vllm": _vllm,
    "sglang": _sglang,
    "llama.cpp": _llama_cpp,
    "tensorrt-llm": _tensorrt_llm,
}
# Remarks that hold on a processor alone.
ON_CPU: dict[str, Callable[[EngineConfig, int], list[str]]] = {"vllm": _vllm_on_cpu, "sglang": _sglang_on_cpu}
