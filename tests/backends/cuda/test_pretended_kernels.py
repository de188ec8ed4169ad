"""Whole engines on a pretended CUDA device with Triton's kernels, in the interpreter: launched with pointers of the
device alone, recorded by graphs with all that the host had decided, and replayed over other steps."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from triton_interpreter import HAS_DEVICE, torch

if HAS_DEVICE:
    pytest.skip("a real device is here", allow_module_level=True)

from pretended import pretended_device  # noqa: E402

from vivace.backends.cuda import graph_buckets  # noqa: E402
from vivace.backends.cuda.kernels import ragged_rows, registry  # noqa: E402
from vivace.core.sampling import SamplingParams  # noqa: E402
from vivace.engine.llm import LLM  # noqa: E402

SHAPE = {
    "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 64, "intermediate_size": 64,
    "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 32, "vocab_size": 67,
    "max_position_embeddings": 128, "rms_norm_eps": 1e-5, "hidden_act": "silu", "tie_word_embeddings": False,
}  # fmt: skip
SERVED: list[tuple[str, str, str, tuple[int, int]]] = [
    ("w8a8", "int8_per_token_head", "auto", (9, 0)),
    ("fp8", "fp8_e4m3", "auto", (8, 0)),
    ("int8", "int4_k_per_channel", "auto", (9, 0)),
    ("bf16", "bf16", "sdpa", (9, 0)),
]


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Few programs of graphs that have nothing to do: each takes the interpreter some milliseconds."""
    for module in (ragged_rows, graph_buckets):
        monkeypatch.setattr(module, "LEAST_GRAPH_PARTS", 4)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(("quantization", "kv_cache_dtype", "attention_backend", "capability"), SERVED, ids=str)
def test_kernels_serve(
    quantization: str, kv_cache_dtype: str, attention_backend: str, capability: tuple[int, int], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """A prompt in whole tiles and a short one, then decoding across a block's end: the tokens of the same kernels
    over torch's CPU device without graphs."""
    config = tmp_path / "config.json"
    config.write_text(json.dumps(SHAPE))
    options: dict[str, Any] = {
        "load_format": "dummy", "config": str(config), "seed": 7, "max_num_seqs": 2, "max_model_len": 64,
        "num_kv_blocks": 16, "cuda_graph_sizes": "2", "quantization": quantization, "kv_cache_dtype": kv_cache_dtype,
        "attention_backend": attention_backend,
    }  # fmt: skip
    rng = np.random.default_rng(20261123)
    prompts = [rng.integers(1, 67, count).tolist() for count in (18, 3)]  # whole tiles from 17 rows on
    params = [
        SamplingParams(max_tokens=3, temperature=0.0, ignore_eos=True),
        SamplingParams(max_tokens=3, temperature=0.8, seed=3, top_k=20, top_p=0.9, logprobs=1, ignore_eos=True),
    ]
    with pretended_device(capability=capability) as machine:
        llm = LLM(device="cuda", **options)
        found = [one.outputs[0].token_ids for one in llm.generate(prompts, params)]
        assert llm.loaded.backend.kernels.complaint is None  # type: ignore[attr-defined]
        assert (machine.num_replays > 0) == (kv_cache_dtype != "int4_k_per_channel")
        assert machine.transfers["device to pageable"] == 0
    monkeypatch.setattr(registry, "_complaint", lambda _: None)
    plain = LLM(backend="cuda", device="cpu", **options)
    assert found == [one.outputs[0].token_ids for one in plain.generate(prompts, params)]
