"""What a quantisation gained and lost, measured on the engine that serves: before and after, side by side."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

from vivace.bench.benchmark import measure
from vivace.bench.workload import Workload
from vivace.engine.llm import LLM
from vivace.evaluate.quality import Quality, measure_quality
from vivace.quantize.quantization import QuantizationResult

PROMPT_LEN, OUTPUT_LEN, BATCH = 128, 64, 8
ROUNDS = 3  # of each figure, before and after in turns: the machine's speed moves

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two models. Rates in tokens a second, medians; `memory_bytes`: packed weights."""

    file_bytes: int
    memory_bytes: int
    prefill_tokens_per_s: float
    decode_tokens_per_s: float
    batch_tokens_per_s: float
    perplexity: float
    bits_per_byte: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """Before and after, and how far apart their predictions are on the same text."""

    before: Side
    after: Side
    kl_divergence_mean: float
    kl_divergence_p99: float
    top1_agreement: float
    num_tokens: int


def measure_both(
    model: str | None, result: QuantizationResult, text: str, progress: Progress | None = None
) -> Comparison:
    """Loads the model and what was made of it. Errors as `LLM` and `measure_quality` raise them."""
    pair = (LLM(model), LLM(str(result.output)))
    rates = _rates(pair, progress)
    count = None if progress is None else lambda done, total: progress("windows compared", done, total)
    quality = measure_quality(pair[1], pair[0], text, progress=count)
    before, after = (
        _side(llm, size, one, perplexity, bits)
        for llm, size, one, perplexity, bits in (
            (pair[0], result.source_bytes, rates[0], quality.reference_perplexity, quality.reference_bits_per_byte),
            (pair[1], result.output_bytes, rates[1], quality.perplexity, quality.bits_per_byte),
        )
    )
    return _comparison(before, after, quality)


def _comparison(before: Side, after: Side, quality: Quality) -> Comparison:
    assert quality.kl_divergence_mean is not None
    assert quality.kl_divergence_p99 is not None
    assert quality.top1_agreement is not None
    return Comparison(
        before,
        after,
        quality.kl_divergence_mean,
        quality.kl_divergence_p99,
        quality.top1_agreement,
        quality.num_tokens,
    )


def _side(
    llm: LLM, file_bytes: int, rates: dict[str, float], perplexity: float | None, bits_per_byte: float | None
) -> Side:
    assert perplexity is not None
    assert bits_per_byte is not None
    return Side(
        file_bytes=file_bytes,
        memory_bytes=llm.loaded.weight_bytes,
        perplexity=perplexity,
        bits_per_byte=bits_per_byte,
        **rates,
    )


def _rates(pair: tuple[LLM, LLM], progress: Progress | None) -> list[dict[str, float]]:
    """Medians over rounds in which both models take turns; the first round warms up."""
    samples: list[dict[str, list[float]]] = [{}, {}]
    for index in range(ROUNDS + 1):
        for llm, seen in zip(pair, samples, strict=True):
            for name, rate in _round(llm, index).items():
                if index:
                    seen.setdefault(name, []).append(rate)
        if progress is not None:
            progress("rounds of speed", index + 1, ROUNDS + 1)
    return [{name: statistics.median(rates) for name, rates in seen.items()} for seen in samples]


def _round(llm: LLM, seed: int) -> dict[str, float]:
    one, many = (
        measure(
            llm.loaded,
            Workload(streams, PROMPT_LEN, OUTPUT_LEN),
            warm_up=0,
            repeats=1,
            seed=seed,
            clock=time.perf_counter,
            probe=None,
        )
        for streams in (1, BATCH)
    )
    return {
        "prefill_tokens_per_s": one.median_rate("prefill_tokens_per_s") or 0.0,
        "decode_tokens_per_s": one.median_rate("decode_tokens_per_s") or 0.0,
        "batch_tokens_per_s": many.median_rate("output_tokens_per_s") or 0.0,
    }


def lines(comparison: Comparison, result: QuantizationResult) -> list[str]:
    """The table, then what it means in a sentence."""
    before, after = comparison.before, comparison.after
    rows = (
        ("files, MB", before.file_bytes / 1e6, after.file_bytes / 1e6, 2),
        ("weights in memory, MB", before.memory_bytes / 1e6, after.memory_bytes / 1e6, 2),
        ("prefill, tokens/s", before.prefill_tokens_per_s, after.prefill_tokens_per_s, 0),
        ("decode, tokens/s", before.decode_tokens_per_s, after.decode_tokens_per_s, 1),
        (f"{BATCH} streams, tokens/s", before.batch_tokens_per_s, after.batch_tokens_per_s, 1),
        ("perplexity", before.perplexity, after.perplexity, 3),
        ("bits per byte", before.bits_per_byte, after.bits_per_byte, 4),
    )
    table = [f"{'':24}{'before':>12}{'after':>12}{'ratio':>8}"]
    table += [f"{name:24}{a:12.{digits}f}{b:12.{digits}f}{b / a:8.3f}" for name, a, b, digits in rows if a]
    return [
        *table,
        f"{'KL divergence':24}{comparison.kl_divergence_mean:24.5f}  nats a token, "
        f"99th percentile {comparison.kl_divergence_p99:.4f}",
        f"{'same first choice':24}{100 * comparison.top1_agreement:23.2f}%",
        sentence(comparison, result),
    ]


def sentence(comparison: Comparison, result: QuantizationResult) -> str:
    """What you gain, what you lose, on what data."""
    before, after = comparison.before, comparison.after
    smaller = before.file_bytes / after.file_bytes
    size = (
        f"files {smaller:.2f} times smaller" if smaller >= 1 else f"nothing in size ({1 / smaller:.2f} times larger)"
    )
    speed = after.decode_tokens_per_s / max(before.decode_tokens_per_s, 1e-9)
    change = 100 * (after.perplexity / before.perplexity - 1)
    others = 100 * (1 - comparison.top1_agreement)
    return (
        f"You gain {size} and {speed:.2f} times the decode speed; you lose {max(change, 0):.2f}% in perplexity "
        f"({before.perplexity:.3f} to {after.perplexity:.3f}), and the model prefers another token in {others:.1f}% "
        f"of all places. Measured on {comparison.num_tokens} tokens of text, and on {OUTPUT_LEN} tokens decoded "
        f"behind {PROMPT_LEN}; calibrated on {result.data}."
    )
