"""Greedy and sampled text with and without each method of speculation, over real prompts: every token must be equal.

    python benches/speculate_identity.py MODEL[=DRAFT] ... --prompts FILE.jsonl ... [--num-prompts 560] [--max-tokens 64]

A JSONL line is an object with "turns" (the first is taken), "prompt" or "question". `embedded=embedded-draft` names a
model and its draft; without a draft prompt lookup alone is compared. Each method guesses as many tokens as it can at
every step (more guesses to be wrong about), then once more under the rule. Prints a Markdown row for each run and
ends with exit status 1 where a token differs.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

from vivace.core.sampling import SamplingParams
from vivace.engine.llm import LLM

BATCH = 32


def read_prompts(paths: list[Path], most: int) -> list[str]:
    """Of each line that is no duplicate, in order."""
    prompts: dict[str, None] = {}
    for path in paths:
        for line in path.read_text().splitlines():
            entry = json.loads(line)
            prompts[entry["turns"][0] if "turns" in entry else entry.get("prompt") or entry["question"]] = None
    return list(prompts)[:most]


def tokens_of(llm: LLM, prompts: list[list[int]], params: SamplingParams) -> list[list[int]]:
    made: list[list[int]] = []
    for first in range(0, len(prompts), BATCH):
        outputs = llm.generate(prompts[first : first + BATCH], params)
        made.extend(output.outputs[0].token_ids for output in outputs)
    return made


def methods(draft: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = [{"method": "ngram", "prompt_lookup_min": 2}]
    if draft:
        found.append({"method": "draft_model", "model": draft})
    return found


def compare(name: str, draft: str, texts: list[str], max_tokens: int) -> bool:
    """Print a row for every method and temperature. Returns whether all tokens are equal."""
    options: dict[str, Any] = {"max_num_seqs": BATCH}
    plain = LLM(None if name == "embedded" else name, **options)
    room = plain.engine.config.max_model_len - max_tokens
    prompts = [plain.tokenizer.encode(text)[-room:] for text in texts]
    settings = [
        SamplingParams(max_tokens=max_tokens, temperature=heat, seed=7, ignore_eos=True) for heat in (0.0, 0.8)
    ]
    expected = [tokens_of(plain, prompts, params) for params in settings]
    all_equal = True
    for method in methods(draft):
        for adaptive in (False, True):
            config = {**method, "adaptive": adaptive}
            llm = LLM(None if name == "embedded" else name, **options, speculative_config=config)
            assert llm.engine.speculation is not None
            stats = llm.engine.speculation.stats
            for params, wanted in zip(settings, expected, strict=True):
                before, steps, began = stats.num_accepted_tokens, llm.engine.stats.num_steps, time.perf_counter()
                made = tokens_of(llm, prompts, params)
                num_equal = sum(one == other for one, other in zip(made, wanted, strict=True))
                all_equal &= num_equal == len(prompts)
                print(
                    f"| {name} | {method['method']}{'' if adaptive else ', always'} | {params.temperature} | "
                    f"{num_equal} of {len(prompts)} | {sum(map(len, made))} | {stats.num_accepted_tokens - before} | "
                    f"{llm.engine.stats.num_steps - steps} | {time.perf_counter() - began:.1f} |",
                    flush=True,
                )
    return all_equal


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("models", nargs="+", metavar="MODEL[=DRAFT]")
    parser.add_argument("--prompts", type=Path, nargs="+", required=True)
    parser.add_argument("--num-prompts", type=int, default=560)
    parser.add_argument("--max-tokens", type=int, default=64)
    arguments = parser.parse_args()
    texts = read_prompts(arguments.prompts, arguments.num_prompts)
    print("| model | method | temperature | equal texts | tokens | guesses that stood | steps | s |")
    print("|---" * 8 + "|")
    results = [
        compare(*one.partition("=")[::2], texts, arguments.max_tokens)  # name, draft
        for one in arguments.models
    ]
    sys.exit(0 if all(results) else 1)


if __name__ == "__main__":
    main()
