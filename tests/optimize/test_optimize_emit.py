"""Equivalents in other engines' flags."""

from __future__ import annotations

import json
import shlex
from dataclasses import replace

import pytest

from vivace.core.config import EngineConfig
from vivace.core.errors import ConfigError
from vivace.core.speculation import SpeculativeConfig
from vivace.optimize.emit import ENGINES, check_engine, equivalent

CONFIG = EngineConfig(
    model="some/model",
    quantization="int4",
    kv_cache_dtype="int8_per_token_head",
    max_model_len=2048,
    max_num_seqs=32,
    max_num_batched_tokens=256,
    block_size=32,
    enable_prefix_caching=False,
    num_kv_blocks=100,
    num_threads=4,
    speculative_config=SpeculativeConfig("draft_model", "small/model", 4),
)


def arguments(text: str) -> dict[str, str]:
    """Flags of the command, each with what stands behind it."""
    words = shlex.split(text.splitlines()[-1])
    return {word: following for word, following in zip(words, [*words[1:], ""], strict=True) if word.startswith("--")}


@pytest.mark.parametrize("name", ENGINES)
def test_remarks_are_comments_and_the_command_is_last(name: str) -> None:
    text = equivalent(name, CONFIG, 1 << 20)
    assert arguments(text)
    assert "model" in text


def test_vllm() -> None:
    found = arguments(equivalent("vllm", CONFIG, 1 << 20))
    assert found["--max-num-seqs"] == "32"
    assert found["--kv-cache-dtype"] == "fp8"
    assert "--no-enable-prefix-caching" in found
    assert json.loads(found["--speculative-config"]) == {"model": "small/model", "num_speculative_tokens": 4}


def test_sglang() -> None:
    found = arguments(equivalent("sglang", CONFIG, 1 << 20))
    assert found["--max-running-requests"] == "32"
    assert found["--chunked-prefill-size"] == "256"
    assert "--disable-radix-cache" in found
    assert found["--max-total-tokens"] == "3200"


def test_llama_cpp() -> None:
    found = arguments(equivalent("llama.cpp", CONFIG, 1 << 20))
    assert found["--model"].endswith("Q4_0.gguf")
    assert (found["--cache-type-k"], found["--threads"], found["--ctx-size"]) == ("q8_0", "4", "3200")
    assert found["--draft-max"] == "4"


def test_threads_are_no_matter_of_gpus() -> None:
    on_gpu = {name: equivalent(name, replace(CONFIG, num_threads=None), 1 << 20, on_gpu=True) for name in ENGINES}
    assert not any(word in text for text in on_gpu.values() for word in ("OMP", "CPU", "--threads"))
    assert arguments(on_gpu["llama.cpp"])["--n-gpu-layers"] == "999"
    assert arguments(on_gpu["vllm"])["--num-gpu-blocks-override"] == "100"
    on_cpu = [equivalent(name, CONFIG, 1 << 20) for name in ("vllm", "sglang")]
    assert all("OMP" in text for text in on_cpu)


def test_tensorrt_llm() -> None:
    text = equivalent("tensorrt-llm", CONFIG, 1 << 20)
    assert "enable_block_reuse: false" in text
    assert "tokens_per_block: 32" in text
    assert arguments(text)["--max_batch_size"] == "32"


def test_no_equivalent_is_said() -> None:
    heads = EngineConfig(speculative_config=SpeculativeConfig("medusa"))
    assert "no equivalent" in equivalent("llama.cpp", heads, 1)
    assert "no other engine" in equivalent("vllm", heads, 1)
    with pytest.raises(ConfigError, match=r"llama\.cpp"):
        check_engine("llamacpp")
