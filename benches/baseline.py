"""Vivace beside the naive baseline, transformers on PyTorch, in one process, interleaved A B A B.

    python benches/baseline.py [--config llama-3.2-1b] [--rounds 5] [--kinds int4 int8 bf16]

Random weights of a real shape: speed only. Each round runs every contender once, in turn, after one round to warm up:
prefill of 512 tokens (time to the first token) and 32 more tokens of one stream, then 32 tokens of 16 streams with
prompts of 128. In between the machine is measured: a plain read of a huge-page buffer and the arithmetic peaks.
Prints a Markdown table: medians, (minimum - maximum), and the median of the per-round ratios to the baseline.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections import defaultdict
from collections.abc import Callable

import torch
import transformers

from vivace.bench.cost import model_cost
from vivace.bench.machine import ceiling_probe
from vivace.bench.metrics import rates
from vivace.bench.timeline import run
from vivace.bench.workload import Workload
from vivace.engine.llm import LLM

ONE = Workload(1, 512, 33)
MANY = Workload(16, 128, 33)
BASELINE = "transformers bf16"

Figures = dict[str, float]


def ours(kind: str, config: str) -> Callable[[int], Figures]:
    llm = LLM(load_format="dummy", config=config, quantization=kind, max_model_len=1024, max_num_seqs=16)
    loaded = llm.loaded
    cost = model_cost(loaded.spec, loaded.parameters, loaded.kv_spec)
    probe = ceiling_probe(loaded.backend)
    assert probe is not None

    def measure(seed: int) -> Figures:
        ceilings = probe()
        prompts = {w: w.prompts(loaded.spec.vocab_size, seed) for w in (ONE, MANY)}
        one = rates(run(loaded.engine, ONE, prompts[ONE], time.perf_counter))
        many = rates(run(loaded.engine, MANY, prompts[MANY], time.perf_counter))
        decode = one.decode_tokens_per_s or 0.0
        gb_per_s = cost.decode_bytes(1, 528) * decode / 1e9
        return {
            "prefill 512 tok/s": one.prefill_tokens_per_s,
            "decode tok/s": decode,
            "decode 16 tok/s": many.decode_tokens_per_s or 0.0,
            "decode GB/s": gb_per_s,
            "read GB/s": ceilings.read_gb_per_s,
            "share of read": gb_per_s / ceilings.read_gb_per_s,
        }

    return measure


def baseline(config: str) -> Callable[[int], Figures]:
    shapes = {
        "llama-3.2-1b": transformers.LlamaConfig(
            hidden_size=2048,
            intermediate_size=8192,
            num_hidden_layers=16,
            num_attention_heads=32,
            num_key_value_heads=8,
            head_dim=64,
            vocab_size=128256,
            tie_word_embeddings=True,
        ),
        "qwen2.5-0.5b": transformers.Qwen2Config(
            hidden_size=896,
            intermediate_size=4864,
            num_hidden_layers=24,
            num_attention_heads=14,
            num_key_value_heads=2,
            vocab_size=151936,
            tie_word_embeddings=True,
        ),
    }
    torch.set_default_dtype(torch.bfloat16)
    model = transformers.AutoModelForCausalLM.from_config(shapes[config]).eval()
    torch.set_default_dtype(torch.float32)

    def generate(workload: Workload, seed: int) -> tuple[float, float]:
        """(prefill tokens a second, decode tokens a second)."""
        prompts = torch.tensor(workload.prompts(model.config.vocab_size, seed))
        with torch.inference_mode():
            started = time.perf_counter()
            out = model(prompts, use_cache=True, logits_to_keep=1)
            prefilled = time.perf_counter()
            for _ in range(workload.output_len - 1):
                tokens = out.logits[:, -1:].argmax(-1)
                out = model(tokens, past_key_values=out.past_key_values, use_cache=True)
            ended = time.perf_counter()
        num_decoded = (workload.output_len - 1) * workload.num_requests
        return prompts.numel() / (prefilled - started), num_decoded / (ended - prefilled)

    def measure(seed: int) -> Figures:
        prefill, decode = generate(ONE, seed)
        return {
            "prefill 512 tok/s": prefill,
            "decode tok/s": decode,
            "decode 16 tok/s": generate(MANY, seed)[1],
        }

    return measure


def table(results: dict[str, list[Figures]]) -> list[str]:
    columns = list(next(iter(results.values()))[0])
    lines = ["| | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for name, rounds in results.items():
        cells = []
        for column in columns:
            values = [one[column] for one in rounds if column in one]
            if not values:
                cells.append("")
                continue
            digits = 2 if column.startswith("share") else 1
            cell = f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f} - {max(values):.{digits}f})"
            pairs = [
                one[column] / other[column]
                for one, other in zip(rounds, results[BASELINE], strict=True)
                if column in other
            ]
            if pairs and name != BASELINE:
                cell += f" {statistics.median(pairs):.1f}x"
            cells.append(cell)
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--config", default="llama-3.2-1b", choices=["llama-3.2-1b", "qwen2.5-0.5b"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--kinds", nargs="+", default=["int4", "int8", "bf16"])
    arguments = parser.parse_args()
    contenders = {f"vivace {kind}": ours(kind, arguments.config) for kind in arguments.kinds}
    contenders[BASELINE] = baseline(arguments.config)
    results: dict[str, list[Figures]] = defaultdict(list)
    for number in range(arguments.rounds + 1):
        for name, measure in contenders.items():
            figures = measure(1000 + number)
            if number > 0:
                results[name].append(figures)
            print(f"round {number} {name}: {figures}", flush=True)
    print("\n".join(table(results)))


if __name__ == "__main__":
    main()
