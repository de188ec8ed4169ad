"""Is the pick as good as the best of an exhaustive grid? A small space of the embedded model, all of it measured.

`python benches/optimize_grid.py [--seconds 60] [--rounds 3] [--final-rounds 12]`: the search runs on the small space
with its own budget; then every candidate of it runs the whole workload, in rounds of heats that have the pick in
common; then the best of them and the pick run again, all in one heat, many times. Prints the pick's throughput over
that of each: the median over heats and its interval. `--seed` draws another workload.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace

from vivace.core.config import EngineConfig
from vivace.optimize.candidate import Candidate
from vivace.optimize.notebook import Forgetful, Notebook
from vivace.optimize.preparation import Inquiry, Prepared, prepare
from vivace.optimize.space import Space, is_sound
from vivace.optimize.standings import Standings

TOGETHER, LEADERS = 6, 5

SMALL = {
    "quantization": ("bf16", "int8", "w8a8"),
    "kv_cache_dtype": ("bf16", "int8_per_token_head"),
    "max_num_seqs": (16, 64),
    "max_num_batched_tokens": (128, 512),
    "block_size": (16,),
    "enable_prefix_caching": (True,),
    "speculation": (None,),
}


def searched(prepared: Prepared) -> Candidate:
    return prepared.optimization.run().pick.candidate


def measured(prepared: Prepared, candidates: list[Candidate], pick: Candidate, rounds: int) -> Standings:
    """Rounds of heats that all have the pick in them, on a laboratory that has measured nothing yet."""
    before = prepared.optimization.trials
    trials = replace(before, notebook=Notebook(Forgetful(), {}), runs={}, partial=[], _heats={}, num_trials=0)
    others = [one for one in candidates if one != pick]
    for number in range(rounds):
        for start in range(0, len(others), TOGETHER):
            trials.heat([pick, *others[start : start + TOGETHER]], name=str(number))
    return Standings(trials, lambda _, measured: measured.tokens_per_s)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--final-rounds", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    inquiry = Inquiry(EngineConfig(seed=arguments.seed), seconds=arguments.seconds)
    prepared = prepare(inquiry, Forgetful(), lambda *_: None, time.monotonic)
    threads = prepared.optimization.space.axes["num_threads"]
    space = Space({**SMALL, "num_threads": threads[:1]})
    prepared = replace(prepared, optimization=replace(prepared.optimization, space=space))
    started = time.monotonic()
    pick = searched(prepared)
    search_s = time.monotonic() - started
    started = time.monotonic()
    candidates = [one for one in space.candidates() if is_sound(one)]
    grid = measured(prepared, candidates, pick, arguments.rounds)
    ranked = sorted(candidates, key=lambda one: -(grid.strength(one) or 0.0))
    words = f"{len(candidates)} candidates, {arguments.rounds} times in {time.monotonic() - started:.0f} s"
    print(f"{words}; searched in {search_s:.0f} s; pick: rank {ranked.index(pick) + 1}: {pick.words}", flush=True)
    # The best of many noisy figures is too good: the leaders and the pick run again.
    final = measured(prepared, ranked[:LEADERS], pick, arguments.final_rounds)
    for one in ranked[:LEADERS]:
        ratio = "the pick" if one == pick else f"pick / it {final.ratio(pick, one)}"
        print(f"{grid.strength(one):9,.0f}, again {final.strength(one):9,.0f} tok/s  {one.short}: {ratio}")
    best = max(ranked[:LEADERS], key=lambda one: final.strength(one) or 0.0)
    print(f"the pick has {(final.strength(pick) or 0.0) / (final.strength(best) or 1.0):.3f} of the best")


if __name__ == "__main__":
    main()
