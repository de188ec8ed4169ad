"""Speculation beside plain decoding, the same prompts in one process, interleaved A B A B.

    python benches/speculate.py [MODEL] [--draft embedded-draft] [--prompts FILE] [--questions FILE.jsonl]
        [--batches 1 16] [--rounds 40] [--methods ngram draft_model medusa] [--temperatures 0 0.8]

A batch is what runs at once: four times as many requests queue for it, so that who ends early makes room for the next
and the batch stays full, as in a server. Two kinds of prompts: `text`, pieces of a text (default: the package's), and
`copying`, those of the questions (default: pieces of the text) whose greedy continuation prompt lookup would have
known at COPIED of its places: what models do that quote, edit or fill in. Every round decodes other prompts of the
kind, with and without speculation, by engines that live as long as the table; texts are compared, and a difference
ends the run. Prints a Markdown row for each: plain decoding, all plain seconds over all seconds with speculation, the
same round by round (10th to 90th percentile), tokens that a step brings, the share of guesses that stood by place,
and what the rule chose.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import time
from array import array
from dataclasses import replace
from pathlib import Path
from typing import Any

from vivace.core.config import EngineConfig
from vivace.core.sampling import SamplingParams
from vivace.core.sequence import Sequence
from vivace.core.speculation import SpeculativeConfig
from vivace.engine.engine import Engine
from vivace.engine.llm import LLM
from vivace.engine.loader import load_again
from vivace.resources.passages import passages
from vivace.speculate.ngram import TokenIndex

OUTPUT_LEN = 96
PROMPT_LEN = 160
COPIED = 0.9
POOL = 32  # prompts of a kind
TRIED = 400  # prompts that are looked through for copying ones
KINDS = ("copying", "text")


def known_share(prompt: list[int], output: list[int]) -> float:
    """Share of the output's tokens that prompt lookup would have guessed."""
    sequence, known = Sequence("", 0, array("i", prompt), len(prompt), SamplingParams(), 0, 0), 0
    index = TokenIndex(3)
    for token in output:
        index.extend(sequence)
        guesses, _ = index.continuation(sequence, 1)
        known += guesses == [token]
        sequence.tokens.append(token)
    return known / len(output)


def beginnings(tokens: list[int], count: int) -> list[list[int]]:
    step = max(1, (len(tokens) - PROMPT_LEN) // count)
    return [tokens[first : first + PROMPT_LEN] for first in range(0, count * step, step)]


def copying(llm: LLM, candidates: list[list[int]]) -> list[list[int]]:
    params = SamplingParams(max_tokens=OUTPUT_LEN, temperature=0.0, ignore_eos=True)
    outputs = llm.generate(candidates, params)
    shares = [known_share(one, output.outputs[0].token_ids) for one, output in zip(candidates, outputs, strict=True)]
    chosen = [one for one, share in zip(candidates, shares, strict=True) if share >= COPIED]
    print(
        f"{len(chosen)} of {len(candidates)} prompts are copied from at {COPIED:.0%} of the places or more; "
        f"all: median {statistics.median(shares):.0%}\n"
    )
    return chosen[:POOL]


def decode(engine: Engine, prompts: list[list[int]], params: SamplingParams) -> tuple[float, list[list[int]]]:
    """Seconds with a warm prefix cache, and the tokens."""
    tokens: list[list[int]] = [[] for _ in prompts]
    started = time.perf_counter()
    for number, prompt in enumerate(prompts):
        engine.add(str(number), prompt, params)
    while engine.num_unfinished:
        for event in engine.step():
            if event.token is not None:
                tokens[int(event.request_id)].append(event.token)
    seconds = time.perf_counter() - started
    for number in range(len(prompts)):
        engine.forget(str(number))
    return seconds, tokens


class Figures:
    """What a method did between two looks at its engine."""

    def __init__(self, engine: Engine) -> None:
        assert engine.speculation is not None
        self._engine, self._stats = engine, engine.speculation.stats
        self._before = (
            self._stats.num_drafts,
            list(self._stats.num_accepted_by_position),
            engine.stats.num_steps,
            self._stats.num_choices.copy(),
        )

    def words(self, num_tokens_a_sequence: int) -> str:
        num_drafts, accepted, num_steps, choices = self._before
        now = zip(self._stats.num_accepted_by_position, accepted, strict=True)
        reached = [self._stats.num_drafts - num_drafts, *(one - before for one, before in now)]
        stood = " ".join(f"{b / a:.2f}" for a, b in itertools.pairwise(reached) if a)
        made = self._stats.num_choices - choices
        chosen = ", ".join(f"{count / made.total():.0%} {name}" for name, count in made.most_common() if count)
        return f"{num_tokens_a_sequence / (self._engine.stats.num_steps - num_steps):.2f} | {stood} | {chosen}"


def compare(
    plain: Engine, speculating: Engine, pool: list[list[int]], batch: int, params: SamplingParams, rounds: int
) -> str:
    groups = [[pool[(first + number) % len(pool)] for number in range(4 * batch)] for first in range(0, len(pool), 4)]
    for group in groups:
        decode(plain, group, params)
        decode(speculating, group, params)
    figures, pairs = Figures(speculating), []
    for number in range(rounds):
        group = groups[number % len(groups)]
        first, expected = decode(plain, group, params)
        second, tokens = decode(speculating, group, params)
        if tokens != expected:
            raise SystemExit("speculation changed the text")
        pairs.append((first, second))
    plain_s, speculating_s = (sum(column) for column in zip(*pairs, strict=True))
    ratios = sorted(first / second for first, second in pairs)
    return (
        f"{rounds * 4 * batch * OUTPUT_LEN / plain_s:.0f} | {plain_s / speculating_s:.2f} "
        f"({ratios[len(ratios) // 10]:.2f} - {ratios[-1 - len(ratios) // 10]:.2f}) | "
        + figures.words(rounds * 4 * OUTPUT_LEN)
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("model", nargs="?")
    parser.add_argument("--draft", default="embedded-draft")
    parser.add_argument("--prompts", type=Path)
    parser.add_argument("--questions", type=Path)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--methods", nargs="+", default=["ngram", "draft_model"])
    parser.add_argument("--temperatures", type=float, nargs="+", default=[0.0, 0.8])
    parser.add_argument("--num-speculative-tokens", type=int, default=5)
    arguments = parser.parse_args()
    options: dict[str, Any] = {"max_model_len": 512, "num_kv_blocks": 2048}
    llm = LLM(arguments.model, **options)
    tokens = llm.tokenizer.encode(arguments.prompts.read_text() if arguments.prompts else passages())
    candidates = beginnings(tokens, TRIED)
    if arguments.questions:
        lines = map(json.loads, arguments.questions.read_text().splitlines())
        candidates = [llm.tokenizer.encode(line["turns"][0])[-400:] for line in lines][:TRIED]
    pools = {"copying": copying(llm, candidates), "text": beginnings(tokens, POOL)}
    print(
        "| method | prompts | temperature | batch | plain tok/s | ratio | tokens a step | stood, by place | chosen |"
    )
    print("|---" * 9 + "|")
    for method, batch in itertools.product(arguments.methods, arguments.batches):
        config = {"method": method, "num_speculative_tokens": arguments.num_speculative_tokens}
        if method == "draft_model":
            config["model"] = arguments.draft
        settings = EngineConfig(model=arguments.model, **options, max_num_seqs=batch)
        plain = load_again(llm.loaded, settings).engine
        speculating = load_again(
            llm.loaded, replace(settings, speculative_config=SpeculativeConfig.parse(config))
        ).engine
        for kind, temperature in itertools.product(KINDS, arguments.temperatures):
            params = SamplingParams(max_tokens=OUTPUT_LEN, temperature=temperature, seed=1, ignore_eos=True)
            cells = compare(plain, speculating, pools[kind], batch, params, arguments.rounds)
            print(f"| {method} | {kind} | {temperature} | {batch} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
