"""Section (f): the same shape in transformers, in the same minutes: batches of one length, and many lengths.

transformers generates for a batch until its longest answer is done; here requests come and go. Prompts are 128 tokens
and nothing is padded, which is kind to it.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import torch

from gpu.setting import Item, Setting
from gpu.shapes import Engines, shape_of
from vivace.core.sampling import SamplingParams
from vivace.engine.llm import LLM

PROMPT_LEN, OUTPUT_LEN = 128, 64
BATCHES = (1, 8, 64)
NUM_MIXED, STATIC_BATCH, LENGTHS = 192, 32, (16, 256)
ROUNDS = 2
OPTIONS = {"max_model_len": 512, "max_num_seqs": 256, "max_num_batched_tokens": 8_192, "gpu_memory_utilization": 0.5}
TINY_OPTIONS = {"max_model_len": 64, "max_num_seqs": 4, "num_kv_blocks": 64}


def transformers_items(setting: Setting) -> Iterator[Item]:
    engines, peers = Engines(setting), Peers(setting)
    for shape in ("llama-3.1-8b",) if setting.is_tiny else ("llama-3.1-8b", "llama-3.2-1b"):
        rng = np.random.default_rng(setting.seed)
        mixed = [2, 5, 3] if setting.is_tiny else rng.integers(*LENGTHS, NUM_MIXED).tolist()
        static = 2 if setting.is_tiny else STATIC_BATCH
        key = f"{shape} bf16 {len(mixed)} requests of mixed lengths"
        yield Item(key, partial(compare, setting, engines, peers, shape, mixed, static), 150.0)
        for batch in (2,) if setting.is_tiny else BATCHES:
            lengths = [4 if setting.is_tiny else OUTPUT_LEN] * batch
            key = f"{shape} bf16 batch {batch}"
            yield Item(key, partial(compare, setting, engines, peers, shape, lengths, batch), 40.0)


class Peers:
    """The transformers model that was asked for last."""

    def __init__(self, setting: Setting) -> None:
        self._setting = setting
        self._shape: str | None = None
        self._model: Any = None

    def get(self, shape: str) -> Any:
        if self._shape != shape:
            self._model = None
            self._model = random_model(shape_of(shape, self._setting), self._setting.torch_device)
            self._shape = shape
        return self._model


def random_model(shape: dict[str, Any], device: torch.device) -> Any:
    """bfloat16, torch's attention."""
    from transformers import AutoModelForCausalLM, LlamaConfig

    kept = {name: value for name, value in shape.items() if name not in ("model_type", "eos_token_id")}
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(
            LlamaConfig(**kept), dtype=torch.bfloat16, attn_implementation="sdpa"
        )
    model.generation_config.eos_token_id = None
    return model.eval()


def compare(
    setting: Setting, engines: Engines, peers: Peers, shape: str, lengths: list[int], batch: int
) -> dict[str, Any]:
    """Requests with answers of these `lengths`, all there at once; transformers takes `batch` at a time, in order."""
    options = TINY_OPTIONS if setting.is_tiny else OPTIONS
    llm = LLM.of(engines.get(shape, quantization="bf16", **options))
    model = peers.get(shape)
    rng = np.random.default_rng([setting.seed, len(lengths)])
    prompt_len = 8 if setting.is_tiny else PROMPT_LEN
    vocabulary = shape_of(shape, setting)["vocab_size"]

    def prompts() -> list[list[int]]:
        return rng.integers(0, vocabulary, (len(lengths), prompt_len)).tolist()

    ours, theirs = partial(_serve, llm, lengths), partial(_generate, model, lengths, batch)
    _serve(llm, lengths, prompts())  # warms up
    _generate(model, [2] * batch, batch, prompts()[:batch])
    times: dict[str, list[float]] = {"vivace": [], "transformers": []}
    for _ in range(ROUNDS):
        for name, run in (("vivace", ours), ("transformers", theirs)):
            times[name].append(_timed(setting, partial(run, prompts())))
    rates = {name: sum(lengths) / statistics.median(one) for name, one in times.items()}
    return {
        "error": None,
        "num_requests": len(lengths),
        "batch_of_transformers": batch,
        "seconds": times,
        "tokens_per_s": rates,
        "ratio": rates["vivace"] / rates["transformers"],
    }


def _timed(setting: Setting, run: Callable[[], None]) -> float:
    started = time.perf_counter()
    run()
    if setting.device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def _serve(llm: LLM, lengths: list[int], prompts: list[list[int]]) -> None:
    asked = [SamplingParams(max_tokens=length, temperature=0.0, ignore_eos=True) for length in lengths]
    llm.generate(prompts, asked)


def _generate(model: Any, lengths: list[int], batch: int, prompts: list[list[int]]) -> None:
    with torch.inference_mode():
        for first in range(0, len(lengths), batch):
            ids = torch.tensor(prompts[first : first + batch], device=model.device)
            longest = max(lengths[first : first + batch])
            model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=longest,
                min_new_tokens=longest,
                do_sample=False,
                pad_token_id=0,
            )
