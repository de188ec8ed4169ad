"""Why each line of vivace.toml has its value: what was measured with another one in its place."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from typing import Any

from vivace.core.config import EngineConfig
from vivace.core.speculation import SpeculativeConfig
from vivace.optimize.answer import Answer, Result
from vivace.optimize.candidate import WEIGHT_WORDS, Candidate, speculation_words

NAMES = {"speculation": "speculative_config"}  # where an axis is called differently in the file
MOST_ALTERNATIVES = 3


def reasons(answer: Answer, config: EngineConfig) -> dict[str, str]:
    """By the key in the file; every key that a candidate decides has one."""
    found = {
        NAMES.get(axis, axis): _lead(answer, axis) + _evidence(answer, axis)
        for axis in (one.name for one in fields(Candidate))
    }
    found["batching"] = "every step takes whoever is there; the ladder in the report has what that is worth"
    pool = config.num_kv_blocks or 0
    tokens = pool * config.block_size
    found["num_kv_blocks"] = (
        f"{tokens:,} tokens, {answer.pick.measured.kv_pool_bytes / 2**20:,.0f} MiB: as it was measured; more memory "
        "keeps more prefixes"
    )
    found["max_model_len"] = "the context that requests may fill, as it was measured"
    if config.model is not None:
        found["model"] = "what was measured"
    if config.load_format == "dummy":
        found["load_format"] = found["config"] = "random weights: speed only, the text means nothing"
    return found


def alternatives(answer: Answer, axis: str) -> list[Result]:
    """Runs that differ from the pick in one value only, the best first."""
    pick = answer.pick.candidate
    return sorted(
        (one for one in answer.results if one.candidate.differences(pick) == (axis,)), key=lambda one: -one.score
    )


def _evidence(answer: Answer, axis: str) -> str:
    parts = []
    for other in alternatives(answer, axis)[:MOST_ALTERNATIVES]:
        words = _words(axis, getattr(other.candidate, axis))
        verdict = f"{words}: {_change(other.score / answer.pick.score)}"
        if other.refusal:
            verdict += f", refused ({other.refusal})"
        parts.append(verdict)
    if not parts:
        return "; nothing else was measured in its place"
    return f"; instead of it, {'; '.join(parts)} ({answer.objective.name})"


def _change(ratio: float) -> str:
    return f"{100 * (ratio - 1):+.1f}%" if ratio > 0 else "not measured by this objective"


def _lead(answer: Answer, axis: str) -> str:
    return LEADS[axis](answer.pick)


def _weights(pick: Result) -> str:
    lead = f"{WEIGHT_WORDS[pick.candidate.quantization]}, {pick.measured.weight_bytes / 2**20:,.1f} MiB"
    if pick.quality is None:
        return lead + ", quality not judged (random weights)"
    return (
        f"{lead}, KL divergence {pick.quality.kl:.2g} nats, perplexity {100 * pick.quality.perplexity_change:+.2f}%"
    )


def _cache(pick: Result) -> str:
    return f"{pick.measured.kv_bytes_per_token:,} bytes a token"


def _prefixes(pick: Result) -> str:
    return f"{100 * pick.measured.prefix_hit_rate:.0f}% of prompt tokens were found computed"


def _speculation(pick: Result) -> str:
    words = speculation_words(pick.candidate.speculation)
    if pick.measured.acceptance is None:
        return words
    return f"{words}; {100 * pick.measured.acceptance:.0f}% of guesses stood"


LEADS: dict[str, Callable[[Result], str]] = {
    "quantization": _weights,
    "kv_cache_dtype": _cache,
    "max_num_seqs": lambda pick: f"{pick.candidate.max_num_seqs} sequences a step",
    "max_num_batched_tokens": lambda pick: (
        f"gaps between tokens of {pick.measured.itl_p95_ms:.1f} ms at the 95th percentile"
    ),
    "block_size": lambda pick: f"blocks of {pick.candidate.block_size} tokens",
    "enable_prefix_caching": _prefixes,
    "speculation": _speculation,
    "num_threads": lambda pick: {None: "the GPU computes", 1: "one thread"}.get(
        pick.candidate.num_threads, "a thread for each physical core"
    ),
    "batching": lambda pick: pick.candidate.batching,
}


def _words(axis: str, value: Any) -> str:
    if axis == "quantization":
        return str(value)
    if axis == "speculation":
        return speculation_words(value if isinstance(value, SpeculativeConfig) else None)
    if axis == "enable_prefix_caching":
        return "on" if value else "off"
    return str(value)
