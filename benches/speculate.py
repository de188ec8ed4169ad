"""Speculation beside plain decoding, the same prompts in one process, interleaved A B A B.

    python benches/speculate.py [MODEL] [--draft embedded-draft] [--heads FOLDER] [--methods n-gram Medusa]
        [--prompts FILE.txt] [--batches 1 4 16] [--rounds 5]

Prompts are pieces of a text (default: copy-heavy ones made here, and the beginnings of the package's own sample);
for method and batch size every round decodes the same requests with and without speculation. Prints a Markdown
table: plain decoding, the median of the per-round ratios (minimum - maximum), tokens that a step brings, and the
share of guesses that stood by position. Texts are compared: a difference ends the run.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path
from typing import Any

from vivace.core.sampling import SamplingParams
from vivace.engine.llm import LLM
from vivace.evaluate.evaluation import sample_text

OUTPUT_LEN = 96
PROMPT_LEN = 160


def copies(llm: LLM, count: int) -> list[list[int]]:
    """A passage that the prompt has begun to repeat: what answers that quote do."""
    tokens = llm.tokenizer.encode(sample_text())
    size = PROMPT_LEN // 2
    passages = [tokens[first : first + size] for first in range(0, count * size, size)]
    return [passage + passage + passage[: size // 4] for passage in passages]


def beginnings(llm: LLM, text: str, count: int) -> list[list[int]]:
    tokens = llm.tokenizer.encode(text)
    step = max(1, (len(tokens) - PROMPT_LEN) // count)
    return [tokens[first : first + PROMPT_LEN] for first in range(0, count * step, step)]


def decode(llm: LLM, prompts: list[list[int]], params: SamplingParams) -> tuple[float, list[list[int]]]:
    """Tokens a second after every prompt is computed (prefix cache warm), and the tokens."""
    started = time.perf_counter()
    outputs = llm.generate(prompts, params)
    seconds = time.perf_counter() - started
    tokens = [output.outputs[0].token_ids for output in outputs]
    return sum(map(len, tokens)) / seconds, tokens


def compare(plain: LLM, speculating: LLM, prompts: list[list[int]], params: SamplingParams, rounds: int) -> str:
    speculation = speculating.engine.speculation
    assert speculation is not None
    speeds, ratios = [], []
    before = speculation.stats
    first = (before.num_drafts, list(before.num_accepted_by_position), speculating.engine.stats.num_steps)
    for number in range(rounds + 1):
        speed, expected = decode(plain, prompts, params)
        faster, tokens = decode(speculating, prompts, params)
        if tokens != expected:
            raise SystemExit("speculation changed the text")
        if number:  # the first round warms up prefix caches and the rule
            speeds.append(speed)
            ratios.append(faster / speed)
    stats = speculation.stats
    drafts = max(1, stats.num_drafts - first[0])
    accepted = [now - then for now, then in zip(stats.num_accepted_by_position, first[1], strict=True)]
    steps = speculating.engine.stats.num_steps - first[2]
    rows = (rounds + 1) * len(prompts) * OUTPUT_LEN / max(1, steps) / len(prompts)
    by_position = " ".join(f"{count / drafts:.2f}" for count in accepted)
    return (
        f"{statistics.median(speeds):.0f} | "
        f"{statistics.median(ratios):.2f} ({min(ratios):.2f} - {max(ratios):.2f}) | "
        f"{rows:.2f} | {by_position}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("model", nargs="?")
    parser.add_argument("--draft", default="embedded-draft")
    parser.add_argument("--heads", help="Folder of Medusa heads; default: those of the embedded model")
    parser.add_argument("--methods", nargs="+", choices=("n-gram", "draft model", "Medusa"))
    parser.add_argument("--prompts", type=Path)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--num-speculative-tokens", type=int, default=5)
    arguments = parser.parse_args()
    options: dict[str, Any] = {"max_model_len": 512, "max_num_seqs": max(arguments.batches)}
    most = arguments.num_speculative_tokens
    methods = {
        "n-gram": {"method": "ngram", "num_speculative_tokens": most},
        "draft model": {"method": "draft_model", "model": arguments.draft, "num_speculative_tokens": most},
        "Medusa": {"method": "medusa", "model": arguments.heads, "num_speculative_tokens": most},
    }
    plain = LLM(arguments.model, **options)
    text = arguments.prompts.read_text() if arguments.prompts else sample_text()
    print("| method | prompts | temperature | batch | plain tok/s | ratio | tokens a step | stood, by position |")
    print("|---" * 8 + "|")
    for name, method in methods.items():
        if arguments.methods and name not in arguments.methods:
            continue
        speculating = LLM(arguments.model, **options, speculative_config=method)
        for kind in ("copies", "text"):
            for temperature in (0.0, 0.8):
                params = SamplingParams(max_tokens=OUTPUT_LEN, temperature=temperature, seed=1, ignore_eos=True)
                for batch in arguments.batches:
                    prompts = copies(plain, batch) if kind == "copies" else beginnings(plain, text, batch)
                    cells = compare(plain, speculating, prompts, params, arguments.rounds)
                    print(f"| {name} | {kind} | {temperature} | {batch} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
