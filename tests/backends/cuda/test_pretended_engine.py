"""Whole engines on a pretended CUDA device, by torch's operations: the tokens of torch's CPU device, and how often the
host waits for the device in each kind of step.

Both sides compute in the exact precision of `vivace.backends.cuda.precision`, so tokens must be equal however rows are
filled up for a graph. `test_pretended_kernels` does the same with Triton's kernels.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from triton_interpreter import HAS_DEVICE, torch

if HAS_DEVICE:
    pytest.skip("a real device is here", allow_module_level=True)

from pretended import Machine, Wait, pretended_device  # noqa: E402

from vivace.backends.cuda import executable, transfer  # noqa: E402
from vivace.backends.cuda.backend import CudaBackend  # noqa: E402
from vivace.backends.cuda.code_layout import LAYOUTS  # noqa: E402
from vivace.backends.cuda.kernels import registry  # noqa: E402
from vivace.backends.cuda.precision import precision_of  # noqa: E402
from vivace.core.sampling import SamplingParams  # noqa: E402
from vivace.core.structured_outputs import StructuredOutputs  # noqa: E402
from vivace.engine.llm import LLM  # noqa: E402
from vivace.formats.quantize_rtn import encode  # noqa: E402
from vivace.formats.tensor import StoredTensor, row_bytes  # noqa: E402

SHAPE = {
    "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 64, "intermediate_size": 96,
    "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32, "vocab_size": 131,
    "max_position_embeddings": 128, "rms_norm_eps": 1e-5, "hidden_act": "silu", "tie_word_embeddings": False,
}  # fmt: skip
SMALL: dict[str, Any] = {"max_num_seqs": 4, "max_model_len": 64, "num_kv_blocks": 48, "cuda_graph_sizes": "4"}
EMBEDDED = SMALL | {"quantization": "f32", "max_model_len": 96}
VARIANTS: list[tuple[str, str, dict[str, Any]]] = [
    ("bf16", "int8_per_token_head", {"max_num_batched_tokens": 9}),
    ("int8", "int4_per_token_head", {"num_kv_blocks": 5}),
    ("w8a8", "f16", {"batching": "static", "static_batch_size": 3, "static_batch_timeout_ms": 0.0}),
    ("llm_int8", "bf16", {"overlap_steps": False}),
    ("fp8", "fp8_e4m3", {"cuda_graph_capture": "first_use"}),
    ("int4", "int4_k_per_channel", {"max_num_batched_tokens": 9, "num_kv_blocks": 5}),
]
SAMPLING: list[dict[str, Any]] = [
    {"temperature": 0.0},
    {"temperature": 0.9, "seed": 1, "top_p": 0.9, "top_k": 20, "logprobs": 2},
    {"temperature": 1.0, "seed": 2, "repetition_penalty": 1.2, "presence_penalty": 0.3, "logit_bias": {3: 2.0}},
    {"temperature": 0.7, "seed": 3, "min_p": 0.05, "n": 2},
]
TEXTS = ["the whale and the ship, the whale and the ship, the whale and", "It was a dark night. It was a", "He said"]


@pytest.fixture(autouse=True)
def by_torch(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No kernels, and the precision of torch's CPU device everywhere."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    monkeypatch.setattr(registry, "_complaint", lambda _: "left out here")
    monkeypatch.setattr(executable, "precision_of", lambda layouts, is_exact: precision_of(layouts, is_exact=True))
    yield
    torch.set_num_threads(before)


@pytest.fixture
def shape(tmp_path: Path) -> dict[str, Any]:
    config = tmp_path / "config.json"
    config.write_text(json.dumps(SHAPE))
    return SMALL | {"load_format": "dummy", "config": str(config), "seed": 7}


def prompts() -> list[list[int]]:
    """The third has the first one's beginning, whole blocks of it."""
    rng = np.random.default_rng(20261123)
    first, second, tail, short = (rng.integers(1, 131, count).tolist() for count in (36, 14, 5, 15))
    return [first, second, first[:33] + tail, short]


def tokens(llm: LLM, requests: list[Any], params: list[SamplingParams]) -> list[Any]:
    return [[output.token_ids for output in one.outputs] for one in llm.generate(requests, params)]


@pytest.mark.parametrize(("quantization", "kv_cache_dtype", "changes"), VARIANTS, ids=str)
def test_tokens_are_those_of_torchs_cpu_device(
    quantization: str, kv_cache_dtype: str, changes: dict[str, Any], shape: dict[str, Any]
) -> None:
    """Chunked, preempted, static, with graphs and without, twice over: the second time from the prefix cache."""
    params = [SamplingParams(max_tokens=6, ignore_eos=True, **one) for one in SAMPLING]
    options = shape | {"quantization": quantization, "kv_cache_dtype": kv_cache_dtype} | changes
    expected = tokens(LLM(backend="cuda", device="cpu", **options), prompts(), params)
    with pretended_device() as machine:
        llm = LLM(device="cuda", **options)
        assert [tokens(llm, prompts(), params) for _ in range(2)] == [expected, expected]
        assert llm.engine.stats.num_preemptions > 0 or changes.get("num_kv_blocks") != 5
    has_graphs = kv_cache_dtype != "int4_k_per_channel"
    assert (machine.num_replays > 0) == has_graphs
    assert machine.transfers["device to pageable"] == 0


@dataclass
class Seen:
    """Of one step of the engine: its waits, and copies from or to memory that is not pinned."""

    waits: list[Wait]
    num_unpinned: int


def steps(machine: Machine, llm: LLM, requests: dict[str, tuple[list[int], SamplingParams]]) -> list[Seen]:
    engine, found = llm.engine, []
    for name, (prompt, params) in requests.items():
        engine.add(name, prompt, params)
    while engine.num_unfinished:
        before = Counter(machine.transfers)
        with machine.counted() as waits:
            engine.step()
        new = Counter(machine.transfers) - before
        found.append(Seen(waits, sum(count for kind, count in new.items() if "pageable" in kind)))
    return found


def check_waits(found: list[Seen], most: int, least_steps: int) -> None:
    assert len(found) >= least_steps
    for number, step in enumerate(found):
        assert len(step.waits) <= most, f"step {number}: {[str(wait) for wait in step.waits]}"


@pytest.mark.parametrize(
    ("kv_cache_dtype", "overlap_steps"), [("bf16", True), ("bf16", False), ("int4_k_per_channel", True)]
)
def test_a_step_waits_once(kv_cache_dtype: str, overlap_steps: bool, shape: dict[str, Any]) -> None:
    """Prompts in chunks, decoding across the ends of blocks, every setting of the sampler: and all that travels is
    pinned."""
    changes = {"kv_cache_dtype": kv_cache_dtype, "overlap_steps": overlap_steps, "max_num_batched_tokens": 16}
    with pretended_device() as machine:
        llm = LLM(device="cuda", **shape | changes)
        params = [SamplingParams(max_tokens=20, ignore_eos=True, **one) for one in SAMPLING[:3]]
        requests = dict(zip("abc", zip(prompts(), params, strict=False), strict=True))
        found = steps(machine, llm, requests)
    check_waits(found, 1, 20)
    assert {wait.kind for step in found for wait in step.waits} == {"event"}
    assert not any(step.num_unpinned for step in found)


# Waits of a step: for its tokens, and for guesses before it where a model makes them.
GUESSES = {"ngram": 1, "draft_model": 2, "medusa": 2}
METHODS: dict[str, dict[str, Any]] = {
    "ngram": {"method": "ngram", "prompt_lookup_min": 2},
    "draft_model": {"method": "draft_model", "model": "embedded-draft"},
    "medusa": {"method": "medusa", "num_speculative_tokens": 6},
}


@pytest.mark.parametrize(
    ("method", "kv_cache_dtype"), [("ngram", "bf16"), ("draft_model", "bf16"), ("medusa", "int4_k_per_channel")]
)
def test_guesses(method: str, kv_cache_dtype: str) -> None:
    options = EMBEDDED | {"kv_cache_dtype": kv_cache_dtype}
    params = [SamplingParams(max_tokens=6, temperature=0.8 * (n % 2), seed=n, logprobs=1) for n in range(len(TEXTS))]
    guessing = {"speculative_config": METHODS[method] | {"adaptive": False}}
    expected = tokens(LLM(backend="cuda", device="cpu", **options), TEXTS, params)
    with pretended_device() as machine:
        llm = LLM(device="cuda", **options, **guessing)
        assert tokens(llm, TEXTS, params) == expected
        ids = [llm.tokenizer.encode(text) for text in TEXTS]
        requests = dict(zip("abc", zip(ids, params, strict=True), strict=True))
        check_waits(steps(machine, llm, requests), GUESSES[method], 2)
        assert llm.engine.speculation is not None
        assert llm.engine.speculation.stats.num_draft_tokens > 0


def test_what_leaves_the_device_and_what_goes_there() -> None:
    """Embeddings, scores of a prompt, masks of a grammar."""
    asked = [
        SamplingParams(max_tokens=6, temperature=0.0, prompt_logprobs=2),
        SamplingParams(max_tokens=8, temperature=0.7, seed=1, structured_outputs=StructuredOutputs("regex", "[a-z ]{8}")),
    ]

    def served(llm: LLM) -> tuple[Any, Any, Any]:
        vectors = [one.embedding for one in llm.embed(TEXTS[:2])]
        outputs = llm.generate(TEXTS[:2], asked)
        scores = [entry.logprob for entry in outputs[0].prompt_logprobs or [] if entry is not None]
        return vectors, [one.outputs[0].token_ids for one in outputs], scores

    expected = served(LLM(backend="cuda", device="cpu", **EMBEDDED))
    with pretended_device():
        found = served(LLM(device="cuda", **EMBEDDED))
    np.testing.assert_allclose(found[0], expected[0], rtol=0, atol=1e-6)
    assert found[1] == expected[1]
    np.testing.assert_allclose(found[2], expected[2], rtol=0, atol=1e-6)


def test_a_pool_of_measured_size(shape: dict[str, Any]) -> None:
    """The largest step and every graph run before the cache has a size; both are given back."""
    options = {name: value for name, value in shape.items() if name != "num_kv_blocks"} | {"max_num_seqs": 2}
    with pretended_device(total_bytes=256 << 20) as machine:
        llm = LLM(device="cuda", **options, max_num_batched_tokens=16, gpu_memory_utilization=0.5)
        chosen = {choice.name: choice.value for choice in llm.loaded.choices}
        assert str(chosen["step_memory"]).endswith(" GiB")
        assert machine.memory[0].peak > 2 * machine.memory[0].allocated
        assert llm.generate([[1, 2, 3]], SamplingParams(max_tokens=3, ignore_eos=True))[0].outputs[0].token_ids


@pytest.mark.parametrize("device", ["cuda:0", "cuda:1"])
def test_weights_of_every_encoding_travel_through_pinned_memory(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In many parts, each of which must be over before its memory is filled again: on the stream of the device."""
    monkeypatch.setattr(transfer, "STAGED_BYTES", 4096)
    values = np.random.default_rng(20261123).standard_normal((130, 256)).astype(np.float32)
    stored = [encode(values, encoding, encoding) for encoding in ("f32", "f16", "bf16")]
    rng = np.random.default_rng(20261123)
    for name in LAYOUTS:
        octets = rng.integers(0, 60, (130, row_bytes(name, 256)), np.uint8)  # scales are finite numbers
        stored.append(StoredTensor(name, name, (130, 256), octets))
    host = CudaBackend("cpu")
    expected = [host.pack(one.encoding, one).data.decode(slice(None)) for one in stored]  # type: ignore[attr-defined]
    transfer.weights_to.cache_clear()
    with pretended_device(num_devices=2) as machine:
        backend = CudaBackend(device)
        weights = [backend.pack(one.encoding, one) for one in stored]
        assert machine.transfers == {"pinned to device": machine.transfers["pinned to device"]}
        assert machine.transfers["pinned to device"] > len(stored) * 5
        for weight, one in zip(weights, expected, strict=True):
            found = weight.data.decode(slice(None))  # type: ignore[attr-defined]
            assert str(found.device) == device
            assert torch.equal(found.cpu(), one)


def test_the_second_device_serves(shape: dict[str, Any]) -> None:
    options = shape | {"quantization": "int4", "max_num_seqs": 2}
    params = SamplingParams(max_tokens=5, temperature=0.0, ignore_eos=True)
    expected = LLM(backend="cuda", device="cpu", **options).generate(prompts()[:2], params)
    with pretended_device(num_devices=2) as machine:
        found = LLM(device="cuda:1", **options).generate(prompts()[:2], params)
        assert machine.memory[0].peak == 0
        assert machine.num_replays > 0
    assert [one.outputs[0].token_ids for one in found] == [one.outputs[0].token_ids for one in expected]
