"""Is the pick as good as the best of an exhaustive grid? A small space of the embedded model, all of it measured.

`python benches/optimize_grid.py [--seconds 60] [--rounds 2]`: the search runs on the small space with its own budget;
then every candidate of it runs the whole workload in turn, in rounds, and the three best of them and the pick again.
Prints the pick's throughput over the best's.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from dataclasses import replace

from vivace.core.config import EngineConfig
from vivace.optimize.candidate import Candidate
from vivace.optimize.drift import DriftGuard
from vivace.optimize.notebook import Forgetful
from vivace.optimize.preparation import Inquiry, Prepared, prepare
from vivace.optimize.space import Space, is_sound

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


def measured(prepared: Prepared, candidates: list[Candidate], rounds: int) -> dict[Candidate, float]:
    """Median tokens a second, scaled to the baseline as in the search."""
    laboratory = prepared.optimization.trials.laboratory
    guard = DriftGuard(laboratory.pulse)
    speeds: dict[Candidate, list[float]] = {one: [] for one in candidates}
    for _ in range(rounds):
        for candidate in candidates:
            steady = guard.measure(lambda candidate=candidate: laboratory.measure(candidate, 1.0))  # type: ignore[misc]
            speeds[candidate].append(steady.measurement.tokens_per_s)
    return {one: statistics.median(values) for one, values in speeds.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--final-rounds", type=int, default=5)
    arguments = parser.parse_args()
    inquiry = Inquiry(EngineConfig(), seconds=arguments.seconds)
    prepared = prepare(inquiry, Forgetful(), lambda *_: None, time.monotonic)
    threads = prepared.optimization.space.axes["num_threads"]
    space = Space({**SMALL, "num_threads": threads[:1]})
    prepared = replace(prepared, optimization=replace(prepared.optimization, space=space))
    started = time.monotonic()
    pick = searched(prepared)
    search_s = time.monotonic() - started
    started = time.monotonic()
    grid = measured(prepared, [one for one in space.candidates() if is_sound(one)], arguments.rounds)
    grid_s = time.monotonic() - started
    ranked = sorted(grid, key=lambda one: -grid[one])
    print(f"{len(grid)} candidates in {grid_s:.0f} s, searched in {search_s:.0f} s")
    # The best of many noisy figures is too good: the leaders and the pick run again, in turn.
    final = measured(prepared, list(dict.fromkeys([*ranked[:3], pick])), arguments.final_rounds)
    for one in sorted(final, key=lambda one: -final[one]):
        print(f"{grid.get(one, math.nan):9,.0f}, again {final[one]:9,.0f} tok/s  {one.words}")
    rank = ranked.index(pick) + 1 if pick in grid else "outside"
    print(f"pick: rank {rank}, {final[pick] / max(final.values()):.3f} of the best: {pick.words}")


if __name__ == "__main__":
    main()
