"""What a model's text costs, and how far it is from another model that saw the same windows."""

from __future__ import annotations

import base64
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vivace.engine.llm import LLM
from vivace.evaluate.divergence import compare_rows, paired_rows
from vivace.evaluate.journal import Journal, Record
from vivace.evaluate.perplexity import (
    PerplexityResult,
    Progress,
    Window,
    WindowedText,
    cut_text,
    negative_logprobs,
    perplexity_of,
)
from vivace.evaluate.vocabulary import vocabulary_difference
from vivace.ops.backend import Float32Array, Int32Array


@dataclass(frozen=True, slots=True)
class TokenDivergences:
    """Of each scored token T: KL divergence in nats, are the best tokens equal, how many tokens precede it."""

    divergence_T: Float32Array
    agrees_T: NDArray[np.bool_]
    context_T: Int32Array


@dataclass(frozen=True, slots=True)
class Quality:
    """A text's figures; those of the comparison are None without a reference.

    `kl_divergence_mean` and `kl_divergence_p99` (99th percentile) are of KL(reference || model) of a token in nats,
    over the whole vocabulary; `top1_agreement` is the share of tokens where both prefer the same next one.
    `perplexity_change` is perplexity / reference_perplexity - 1, its `_stderr` that of the mean difference of tokens.
    `kl_divergence_refused` says why they are None although there is a reference.
    """

    perplexity: float
    bits_per_byte: float
    nats_per_token: float
    num_tokens: int
    num_bytes: int
    num_windows: int
    window: int
    stride: int
    kl_divergence_mean: float | None = None
    kl_divergence_p99: float | None = None
    top1_agreement: float | None = None
    perplexity_change: float | None = None
    perplexity_change_stderr: float | None = None
    kl_divergence_refused: str | None = None
    reference_perplexity: float | None = None
    reference_bits_per_byte: float | None = None
    tokens: TokenDivergences | None = field(default=None, repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class _WindowScores:
    nats: float
    reference_nats: float
    difference_T: Float32Array  # nats - reference_nats of each token
    divergence_T: Float32Array
    agrees_T: NDArray[np.bool_]

    def record(self) -> Record:
        return {
            "nats": self.nats,
            "reference_nats": self.reference_nats,
            "difference": _packed(self.difference_T.astype("<f4")),
            "divergence": _packed(self.divergence_T.astype("<f4")),
            "agrees": _packed(np.packbits(self.agrees_T)),
        }

    @staticmethod
    def from_record(record: Record) -> _WindowScores:
        difference_T, divergence_T = (
            np.frombuffer(base64.b64decode(record[name]), "<f4") for name in ("difference", "divergence")
        )
        bits = np.frombuffer(base64.b64decode(record["agrees"]), np.uint8)
        agrees_T = np.unpackbits(bits, count=len(divergence_T)).astype(np.bool_)
        return _WindowScores(record["nats"], record["reference_nats"], difference_T, divergence_T, agrees_T)


def _packed(values: NDArray[Any]) -> str:
    return base64.b64encode(values.tobytes()).decode()


def measure_quality(
    llm: LLM,
    reference: LLM | None,
    text: str,
    *,
    window: int | None = None,
    stride: int | None = None,
    progress: Progress | None = None,
    journal: Journal | None = None,
) -> Quality:
    """Score `text` with `llm` and, where a reference is given, compare the two token by token.

    Both see the same windows, one after the other in step; no more than a step's logits of each is in memory.
    `window` defaults to the shorter context (2,048 tokens at most), `stride` to half of it; `progress(done, total)`
    counts windows; with a `journal` a run that was cut off goes on where it was. Models with different vocabularies
    are not compared token by token: the result says why. Raises `ConfigError` as `cut_text` does.
    """
    journal = journal or Journal.nowhere()
    if reference is None:
        windowed = cut_text(llm, text, window, stride)
        return _quality(_perplexity(llm, windowed, "", progress, journal))
    if refusal := vocabulary_difference(llm, reference, text):
        return _apart(llm, reference, text, window, stride, refusal, progress, journal)
    windowed = cut_text(llm, text, window, stride, reference.engine.config.max_model_len)
    scores = []
    for done, one in enumerate(_compared(llm, reference, windowed, journal), start=1):
        scores.append(one)
        if progress is not None:
            progress(done, len(windowed.cuts))
    return _compared_quality(windowed, scores)


def _perplexity(
    llm: LLM, windowed: WindowedText, prefix: str, progress: Progress | None, journal: Journal
) -> PerplexityResult:
    """Perplexity with the windows that the journal has already."""
    keys = [f"{prefix}window {index}" for index in range(len(windowed.cuts))]
    sums = [record["nats"] for key in keys if (record := journal.get(key)) is not None]
    for group in negative_logprobs(llm, windowed, windowed.cuts[len(sums) :]):
        for nats in group:
            journal.put(keys[len(sums)], {"nats": nats})
            sums.append(nats)
        if progress is not None:
            progress(len(sums), len(windowed.cuts))
    return perplexity_of(windowed, sums)


def _compared(llm: LLM, reference: LLM, windowed: WindowedText, journal: Journal) -> Iterator[_WindowScores]:
    for index, cut in enumerate(windowed.cuts):
        record = journal.get(f"window {index}")
        if record is not None:
            yield _WindowScores.from_record(record)
            continue
        scores = _compare_window(llm, reference, windowed.tokens(cut), cut)
        journal.put(f"window {index}", scores.record())
        yield scores


def _compare_window(llm: LLM, reference: LLM, token_ids: list[int], cut: Window) -> _WindowScores:
    first = cut.first_scored - cut.start - 1  # the row that predicts the first scored token
    targets_T = np.array(token_ids, np.int32)
    parts = [
        compare_rows(
            pair.reference_SV,
            pair.candidate_SV,
            targets_T[pair.start + 1 : pair.start + 1 + len(pair.candidate_SV)],
        )
        for pair in paired_rows(llm, reference, token_ids, first)
    ]
    return _WindowScores(
        nats=math.fsum(float(part.nats_S.sum()) for part in parts),
        reference_nats=math.fsum(float(part.reference_nats_S.sum()) for part in parts),
        difference_T=np.concatenate([part.nats_S - part.reference_nats_S for part in parts]).astype(np.float32),
        divergence_T=np.concatenate([part.divergence_S for part in parts]),
        agrees_T=np.concatenate([part.agrees_S for part in parts]),
    )


def _compared_quality(windowed: WindowedText, scores: list[_WindowScores]) -> Quality:
    own = perplexity_of(windowed, [one.nats for one in scores])
    other = perplexity_of(windowed, [one.reference_nats for one in scores])
    tokens = TokenDivergences(
        np.concatenate([one.divergence_T for one in scores]),
        np.concatenate([one.agrees_T for one in scores]),
        np.concatenate([np.arange(cut.first_scored, cut.stop, dtype=np.int32) - cut.start for cut in windowed.cuts]),
    )
    difference_T = np.concatenate([one.difference_T for one in scores]).astype(np.float64)
    ratio = own.perplexity / other.perplexity
    return _quality(
        own,
        kl_divergence_mean=float(tokens.divergence_T.mean(dtype=np.float64)),
        kl_divergence_p99=float(np.quantile(tokens.divergence_T, 0.99)),
        top1_agreement=float(tokens.agrees_T.mean()),
        perplexity_change=ratio - 1,
        perplexity_change_stderr=ratio * float(difference_T.std()) / math.sqrt(len(difference_T)),
        reference_perplexity=other.perplexity,
        reference_bits_per_byte=other.bits_per_byte,
        tokens=tokens,
    )


def _apart(
    llm: LLM,
    reference: LLM,
    text: str,
    window: int | None,
    stride: int | None,
    refusal: str,
    progress: Progress | None,
    journal: Journal,
) -> Quality:
    """Models that cut text differently: each scores its own tokens; bits per byte can be compared."""
    own = _perplexity(llm, cut_text(llm, text, window, stride), "", progress, journal)
    other = _perplexity(reference, cut_text(reference, text, window, stride), "reference ", progress, journal)
    return _quality(
        own,
        kl_divergence_refused=refusal,
        reference_perplexity=other.perplexity,
        reference_bits_per_byte=other.bits_per_byte,
    )


def _quality(result: PerplexityResult, **compared: object) -> Quality:
    own = {name: getattr(result, name) for name in PerplexityResult.__slots__}
    return Quality(**own, **compared)  # type: ignore[arg-type]
